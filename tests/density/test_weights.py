"""Weights against closed forms and known densities: the direction, the scale, the cap, the floor."""

import numpy as np
import pytest

import kat
from kat.density.weights import heaviest_share, project
from kat.errors import InputError, OptionError
from kat.statistics import spearman


def weigh_points(x, k=20, metric="euclidean", **options):
    return kat.weigh(kat.estimate_density(kat.find_neighbors(x, k=k, metric=metric)), **options)


def bumps(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A mixture of three Gaussians of different spread and share in d dimensions, and its log density."""
    rng = np.random.default_rng(seed)
    means, spreads, shares = rng.normal(size=(3, d)) * 4, np.asarray([0.5, 1.0, 2.0]), np.asarray([0.5, 0.3, 0.2])
    which = rng.choice(3, n, p=shares)
    x = means[which] + spreads[which, None] * rng.normal(size=(n, d))
    squares = ((x[:, None] - means) ** 2).sum(-1)
    logs = np.log(shares) - d * np.log(spreads) - squares / (2 * spreads**2)
    return x.astype(np.float32), np.logaddexp.reduce(logs, axis=1)


@pytest.mark.parametrize("d", [2, 4, 8])
def test_density_recovers_a_known_mixture(d):
    x, truth = bumps(6000, d)
    density = kat.estimate_density(kat.find_neighbors(x, k=20, metric="euclidean"))
    assert spearman(density.log_values, truth) >= 0.95
    assert spearman(weigh_points(x).values, -truth) >= 0.95, "rare weighs more"


def test_intrinsic_dimension_is_not_the_number_of_columns():
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 64))
    density = kat.estimate_density(kat.find_neighbors(flat, k=20, metric="euclidean"))
    assert 4.5 < density.intrinsic_dimension < 5.5


@pytest.mark.parametrize("d", [3, 16, 64])
def test_uniform_points_on_a_sphere_stay_uniform_at_temperature_1(d):
    x = np.random.default_rng(2).normal(size=(3000, d))
    assert weigh_points(x, metric="cosine", temperature=1.0).ess_share > 0.95


def test_permuting_rows_permutes_weights():
    x, _ = bumps(800, 4)
    order = np.random.default_rng(3).permutation(len(x))
    np.testing.assert_allclose(weigh_points(x[order]).values, weigh_points(x).values[order], rtol=1e-5)


def test_rotating_and_moving_changes_nothing():
    x, _ = bumps(800, 4)
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(4, 4)))
    np.testing.assert_allclose(weigh_points(x @ turn + 3).values, weigh_points(x).values, rtol=2e-3)


def test_adding_mass_to_a_blob_lowers_its_weights():
    rng = np.random.default_rng(5)
    left, right = rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 20
    more = rng.normal(size=(900, 4))
    before = weigh_points(np.concatenate([left, right]), temperature=3.0).values[:300]
    after = weigh_points(np.concatenate([left, right, more]), temperature=3.0).values[:300]
    assert after.mean() < 0.8 * before.mean()


def test_copies_get_equal_finite_and_low_weights():
    rng = np.random.default_rng(6)
    x = np.concatenate([rng.normal(size=(500, 4)), np.repeat(rng.normal(size=(1, 4)), 60, 0)])
    weights = weigh_points(x, k=20).values
    copies, others = weights[500:], weights[:500]
    assert np.isfinite(weights).all()
    assert np.ptp(copies) == 0
    assert copies[0] < np.median(others)
    alone = np.concatenate([x[:500], x[500:501]])
    assert copies[0] < weigh_points(alone, k=20).values[500]


def test_copying_a_cluster_counts_like_as_many_new_points():
    """Each point copied m times must look m times as dense as m times as many distinct points do: by definition."""
    rng = np.random.default_rng(7)
    d, m = 3, 5
    few, many = rng.uniform(size=(2000, d)), rng.uniform(size=(2000 * m, d))
    copied = kat.estimate_density(kat.find_neighbors(np.repeat(few, m, 0), k=20, metric="euclidean"))
    dense = kat.estimate_density(kat.find_neighbors(many, k=20, metric="euclidean"))
    assert abs(copied.log_values.mean() - dense.log_values.mean()) < 0.05


def test_the_cap_is_a_fixed_point_of_the_mean():
    rng = np.random.default_rng(8)
    for t in (0.0, 0.5, 2.0, 7.0):
        log_density, cap = rng.normal(size=400), 3.0
        w = project(log_density, t, cap)
        assert w.mean() == pytest.approx(1, abs=1e-12)
        assert w.max() <= cap * (1 + 1e-12)
        raw = np.exp(-t * log_density)
        scale = (w / raw)[w < cap * (1 - 1e-9)]
        np.testing.assert_allclose(scale, scale[0], rtol=1e-9)  # one s for all below the cap
        assert (scale[0] * raw[w >= cap * (1 - 1e-9)] >= cap * (1 - 1e-6)).all()


def test_the_projection_equals_plain_iteration():
    log_density = np.random.default_rng(9).normal(size=50)
    raw, cap = np.exp(-2.5 * log_density), 4.0
    low, high = 0.0, 1e6  # Σ min(cap, s · raw) grows with s: bisect for the s that gives N
    for _ in range(200):
        s = (low + high) / 2
        low, high = (s, high) if np.minimum(cap, s * raw).sum() < 50 else (low, s)
    np.testing.assert_allclose(project(log_density, 2.5, cap), np.minimum(cap, s * raw), rtol=1e-9)


def test_a_cap_of_1_leaves_no_choice():
    np.testing.assert_allclose(kat.weigh([1.0, 2.0, 5.0], ess=1.0, cap=1.0).values, 1.0)


def test_ess_is_a_floor_that_is_reached():
    log_density = np.random.default_rng(10).normal(size=2000)
    for floor in (0.3, 0.5, 0.9):
        w = kat.weigh(np.exp(log_density), ess=floor)
        assert floor <= w.ess_share < floor + 1e-6
        assert w.bound == "ess"


def test_temperature_against_the_closed_form():
    """For log-normal densities of variance σ² and no cap in reach, ESS/N → exp(−T²σ²)."""
    log_density = np.random.default_rng(11).normal(size=400_000) * 0.2
    w = kat.weigh(np.exp(log_density), ess=0.8, cap=1e6)
    assert w.temperature == pytest.approx(np.sqrt(-np.log(0.8)) / 0.2, rel=0.01)


def test_max_temperature_stops_the_search():
    w = kat.weigh(np.exp(0.001 * np.random.default_rng(12).normal(size=100)), max_temperature=5.0)
    assert (w.temperature, w.bound) == (5.0, "max_temperature")


def test_temperature_0_and_equal_densities_are_uniform():
    assert (kat.weigh([1.0, 2.0, 3.0], temperature=0).values == 1).all()
    w = kat.weigh([2.0, 2.0, 2.0])
    assert (w.values == 1).all()
    assert w.bound == "uniform"
    assert w.cap_hits == 0


def test_one_row_and_only_copies():
    assert weigh_points(np.ones((1, 3))).values.tolist() == [1.0]
    assert weigh_points(np.ones((7, 3))).values.tolist() == [1.0] * 7


def test_steep_densities_leave_finite_positive_weights():
    w = kat.weigh(np.exp(np.linspace(-300, 300, 50)), temperature=20.0)
    assert np.isfinite(w.values).all()
    assert (w.values > 0).all()
    assert w.values.mean() == pytest.approx(1)


def test_the_heaviest_share_by_hand():
    assert heaviest_share(np.asarray([1.0] * 99 + [9.0])) == pytest.approx(9 / 108)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"ess": 0}, "ess"),
        ({"ess": 1.5}, "ess"),
        ({"ess": 0.05, "cap": 10}, "keep an ESS"),
        ({"cap": 0.5}, "cap"),
        ({"cap": float("nan")}, "cap"),
        ({"temperature": -1}, "temperature"),
        ({"max_temperature": float("inf")}, "max_temperature"),
    ],
)
def test_options_are_checked(options, word):
    with pytest.raises(OptionError, match=word):
        kat.weigh([1.0, 2.0], **options)


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -2.0], [1.0, float("nan")], [1.0, float("inf")], [[1.0]]])
def test_densities_are_checked(values):
    with pytest.raises(InputError):
        kat.weigh(values)
