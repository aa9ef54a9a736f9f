"""Weights that know noise from rarity: the split-half bound, estimators, and explanations."""

import numpy as np
import pytest

import kat
from kat.density.dimension import intrinsic_dimension, two_nn
from kat.density.estimators.mean_distance import mean_distance
from kat.density.noise import split_half
from kat.density.weights import NOISE_ESS
from kat.errors import OptionError
from kat.plugins import ESTIMATORS as FOLDER
from kat.plugins import load_all, names
from kat.records import Halves
from kat.statistics import spearman

ESTIMATORS = names(FOLDER)
LOG_DENSITY = {name: plugin.log_density for name, plugin in load_all(FOLDER).items()}


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def topics(n: int = 3000, d: int = 6, seed: int = 0) -> np.ndarray:
    """Gaussians of one spread and Zipf sizes: density truly differs."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 16)
    which = rng.choice(15, n, p=shares / shares.sum())
    return (8 * rng.normal(size=(15, d))[which] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("d", [4, 16])
def test_structureless_data_get_nearly_uniform_weights(d, estimator):
    density = kat.estimate_density(kat.find_neighbors(sphere(3000, d), k=20), estimator=estimator)
    weights = kat.weigh(density, ess=0.5, max_temperature=1e6)
    assert weights.bound == "noise"
    assert weights.ess_share > 0.85
    assert density.split_half < 0.5


def test_without_the_bound_the_same_data_would_get_noise_for_weights():
    density = kat.estimate_density(kat.find_neighbors(sphere(3000, 16), k=20))
    assert kat.weigh(np.exp(density.log_values), ess=0.5, max_temperature=1e6).ess_share < 0.51


def test_real_structure_is_not_held_back():
    density = kat.estimate_density(kat.find_neighbors(topics(), k=20, metric="euclidean"))
    weights = kat.weigh(density, ess=0.5)
    assert density.split_half > 0.9
    assert (weights.bound, round(weights.ess_share, 4)) == ("ess", 0.5)


def test_noise_against_simulation():
    """Signal + noise of known variances, twice the noise in a half: r is the reliability, (1 − r)·var the noise."""
    rng = np.random.default_rng(1)
    signal, n = rng.normal(size=20_000), 20_000
    one, two = (signal + np.sqrt(0.5) * rng.normal(size=n) for _ in range(2))
    full = signal + 0.5 * rng.normal(size=n)
    # mean_distance reads −log of the distance: give it distances that have these logs.
    halves = Halves(np.arange(n), np.exp(-one)[:, None], np.exp(-two)[:, None])
    r, noise = split_half(halves, 1, lambda distances: mean_distance(distances, 1.0), full)
    assert r == pytest.approx(1 / 1.25, abs=0.01)
    assert noise == pytest.approx(0.25, abs=0.01)


def test_the_noise_bound_is_what_it_says():
    """Weights exp(−T e) of pure noise e at the bounding T have the promised effective sample size."""
    density = kat.estimate_density(kat.find_neighbors(sphere(3000, 16), k=20))
    weights = kat.weigh(density, max_temperature=1e6)
    noise = np.random.default_rng(2).normal(size=400_000) * np.sqrt(density.noise)
    plain = np.exp(-weights.temperature * noise)
    assert plain.sum() ** 2 / (plain**2).sum() / len(plain) == pytest.approx(NOISE_ESS, abs=0.005)


@pytest.mark.parametrize("estimate", [two_nn, intrinsic_dimension])
@pytest.mark.parametrize("d", [2, 5, 10])
def test_intrinsic_dimension_of_flat_data(d, estimate):
    rng = np.random.default_rng(3)
    x = rng.uniform(size=(8000, d)) @ np.linalg.qr(rng.normal(size=(50, d)))[0].T
    found = estimate(kat.find_neighbors(x, k=20, metric="euclidean").distinct_distances)
    assert found == pytest.approx(d, rel=0.2)


def test_intrinsic_dimension_reads_each_distinct_row_once():
    rng = np.random.default_rng(4)
    x, often = rng.normal(size=(500, 4)), np.ones((300, 4))
    alone = kat.find_neighbors(np.concatenate([x, often[:1]]), k=20, metric="euclidean").distinct_distances
    copied = kat.find_neighbors(np.concatenate([x, often]), k=20, metric="euclidean")
    found = intrinsic_dimension(copied.distinct_distances, copied.multiplicity)
    assert found == pytest.approx(intrinsic_dimension(alone), rel=1e-6)


def test_duplicates_are_no_noise():
    """Duplicating rows at random leaves the noise of the places as it was, though density now varies much more."""
    rng = np.random.default_rng(5)
    x = topics(2000)
    plain = kat.estimate_density(kat.find_neighbors(x, k=20, metric="euclidean"))
    repeated = np.repeat(x, rng.integers(1, 40, len(x)), 0)
    copied = kat.estimate_density(kat.find_neighbors(repeated, k=20, metric="euclidean"))
    assert copied.noise == pytest.approx(plain.noise, rel=1e-3)
    assert np.var(copied.log_values) > np.var(plain.log_values)


def test_the_noise_claimed_is_the_noise_there_is():
    """Fresh samples of one density, asked at fixed places: their variance is the noise (d = 4, k = 20)."""
    rng = np.random.default_rng(6)
    places = rng.normal(size=(300, 4))
    claimed, measured = [], []
    for _ in range(8):
        x = np.concatenate([places, rng.normal(size=(3000, 4))]).astype(np.float32)
        density = kat.estimate_density(kat.find_neighbors(x, k=20, metric="euclidean"))
        claimed.append(density.noise)
        measured.append(density.log_values[:300])
    assert np.mean(claimed) == pytest.approx(np.var(measured, axis=0, ddof=1).mean(), rel=0.35)


def test_two_nn_closed_form():
    """Ratios drawn from the Pareto law that TwoNN assumes give its exponent back."""
    ratio = np.random.default_rng(4).pareto(7.0, 200_000) + 1
    assert two_nn(np.stack([np.ones_like(ratio), ratio], 1)) == pytest.approx(7.0, rel=0.02)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_duplicates_shrink_distances_as_density_would(estimator):
    """m duplicates change each estimate as distances smaller by m^(−1/d) would, whatever its units."""
    distances, d, m = np.random.default_rng(7).uniform(0.1, 0.5, (50, 9)), 5.0, 12
    distances.sort(axis=1)
    copied = LOG_DENSITY[estimator](distances, d, m)
    np.testing.assert_allclose(copied, LOG_DENSITY[estimator](distances * m ** (-1 / d), d), rtol=1e-9)


def test_estimators_by_hand():
    distances = np.asarray([[1.0, 2.0, 3.0], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(LOG_DENSITY["mean_distance"](distances, 4.0), [-np.log(2), np.log(2)])
    np.testing.assert_allclose(LOG_DENSITY["kth_distance"](distances, 4.0), [-4 * np.log(3), 4 * np.log(2)])
    cosine = 1 - distances[1:] ** 2 / 2
    np.testing.assert_allclose(LOG_DENSITY["inverse_cosine"](distances[1:], 4.0), np.log(cosine.mean(1)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_says_that_crowded_is_high(estimator):
    rng = np.random.default_rng(5)
    crowd, rare = rng.normal(size=(400, 3)) * 0.05 + [5, 0, 0], rng.normal(size=(40, 3)) * 0.05 + [0, 5, 0]
    x = np.concatenate([crowd, rare])
    for metric in ("cosine", "euclidean"):
        neighbors = kat.find_neighbors(kat.Embeddings([str(i) for i in range(440)], x), k=20, metric=metric)
        density = kat.estimate_density(neighbors, estimator=estimator)
        assert density.log_values[:400].mean() > density.log_values[400:].mean()
        assert kat.weigh(density).values[400:].mean() > 1 > kat.weigh(density).values[:400].mean()


def test_inverse_cosine_from_vectors_equals_that_from_distances():
    x = kat.Embeddings([str(i) for i in range(300)], sphere(300, 5) + 2)
    unit = x.vectors / np.linalg.norm(x.vectors, axis=1, keepdims=True)
    by_distance = kat.estimate_density(kat.find_neighbors(x, k=10), estimator="inverse_cosine")
    euclidean = kat.find_neighbors(unit, k=10, metric="euclidean")
    by_vectors = kat.estimate_density(euclidean, estimator="inverse_cosine", embeddings=x)
    np.testing.assert_allclose(by_vectors.log_values, by_distance.log_values, atol=1e-5)
    with pytest.raises(OptionError, match="embeddings="):
        kat.estimate_density(euclidean, estimator="inverse_cosine")


def test_options_are_checked():
    neighbors = kat.find_neighbors(sphere(30, 3), k=3)
    with pytest.raises(OptionError, match="estimator"):
        kat.estimate_density(neighbors, estimator="magic")
    with pytest.raises(OptionError, match="k is 0"):
        kat.estimate_density(neighbors, k=0)


# --- explanations -----------------------------------------------------------------------------------------------------


def explained():
    rng = np.random.default_rng(6)
    vectors = np.concatenate([topics(400, 4), 30 + rng.normal(size=(1, 4))]).astype(np.float32)
    ids = [f"id{i}" for i in range(len(vectors))]
    tokens = np.arange(len(vectors), dtype=np.int32)
    source = kat.Embeddings(ids, vectors, tokens, np.where(tokens > 395, 7, 0))
    neighbors = kat.find_neighbors(source, k=50, metric="euclidean")
    return source, kat.weigh(kat.estimate_density(neighbors, k=20))


def test_an_explanation_agrees_with_brute_force():
    source, weights = explained()
    why = weights.explain("id400")
    apart = np.linalg.norm(source.vectors.astype(np.float64) - source.vectors[400], axis=1)
    apart[400] = np.inf
    oracle = [(f"id{i}", apart[i]) for i in np.argsort(apart)[:5]]
    assert [i for i, _ in why["nearest"]] == [i for i, _ in oracle]
    np.testing.assert_allclose([d for _, d in why["nearest"]], [d for _, d in oracle], rtol=1e-6)
    assert why["density_percentile"] == 0
    assert why["weight_percentile"] == 100
    assert why["length_percentile"] == 100
    assert why["tokens_lost"] == 7
    assert weights.explain("id3")["tokens_lost"] == 0


def test_an_explanation_gives_the_weight_at_other_k():
    source, weights = explained()
    why = weights.explain("id400")["weight_at_k"]
    for k in (10, 20, 50):
        alone = kat.weigh(kat.estimate_density(kat.find_neighbors(source, k=k, metric="euclidean")))
        assert why[k] == pytest.approx(alone.values[400], rel=1e-3)


def test_explanations_need_evidence_and_a_known_id():
    _, weights = explained()
    with pytest.raises(KeyError, match="No opening has the id nobody"):
        weights.explain("nobody")
    with pytest.raises(ValueError, match="plain numbers"):
        kat.weigh([1.0, 2.0]).explain("0")


def test_percentiles_count_ties_half():
    from kat.density.explain import percentile

    assert percentile(np.asarray([1.0, 1.0, 1.0]), 0) == 50
    assert percentile(np.asarray([1.0, 2.0, 3.0]), 2) == 100
    assert percentile(np.asarray([1.0]), 0) == 0
    assert spearman(np.arange(5), np.arange(5)) == pytest.approx(1)
