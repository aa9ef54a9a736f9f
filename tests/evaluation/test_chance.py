"""What intervals, p-values and power promise, kept on simulated data whose truth is known."""

import itertools

import numpy as np
import pytest

from kat.evaluation.intervals import effective_clusters, interval, replicate, student_quantile
from kat.evaluation.power import cluster_error, detectable
from kat.evaluation.significance import EXACT, sign_flip


def ratio(totals: np.ndarray) -> np.ndarray:
    return totals[..., 1:2] / totals[..., :1]


def clustered(rng, openings: int, most: int = 15) -> np.ndarray:
    """Sums [X, 2] of (pairs, wins): openings of very different sizes, pairs of one opening alike; the truth is 0.7."""
    m = np.minimum(rng.zipf(2.2, openings), most)
    chance = rng.beta(0.7 * 2, 0.3 * 2, openings)
    return np.stack([m, rng.binomial(m, chance)], 1).astype(float)


@pytest.mark.parametrize("openings", [40, 250])
def test_intervals_cover_what_they_say(openings):
    rng = np.random.default_rng(0)
    trials, covered, balanced = 1500, 0, 0
    for trial in range(trials):
        sums = clustered(rng, openings)
        low, high = interval(replicate(sums, ratio, 400, seed=trial)[:, 0], effective_clusters(sums[:, 0]))
        covered += low <= 0.7 <= high
        even = np.stack([np.ones(openings), sums[:, 1] / sums[:, 0]], 1)
        low, high = interval(replicate(even, ratio, 400, seed=trial)[:, 0], openings)
        balanced += low <= 0.7 <= high
    print(f"coverage of {openings} openings: unweighted {covered / trials:.3f}, balanced {balanced / trials:.3f}")
    # Binomial noise of the trials themselves: ± 1.1 % at two standard deviations.
    assert 0.93 <= covered / trials <= 0.97
    assert 0.93 <= balanced / trials <= 0.97


def test_intervals_over_pairs_would_be_too_narrow():
    """The reason for clusters, so that nobody takes them out."""
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(200):
        sums = clustered(rng, 250)
        wins = np.concatenate([np.repeat([1.0, 0.0], [int(w), int(m - w)]) for m, w in sums])
        low, high = interval(
            replicate(np.stack([np.ones(len(wins)), wins], 1), ratio, 400, seed=trial)[:, 0], len(wins)
        )
        inside += low <= 0.7 <= high
    assert inside / 200 < 0.85


@pytest.mark.parametrize("freedom", [2, 3, 6, 20, 200])
def test_quantiles_of_t_are_a_librarys(freedom):
    from scipy.stats import t

    assert student_quantile(0.975, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-2 if freedom < 6 else 1e-4)


def test_too_few_openings_have_no_interval():
    assert interval(np.arange(100.0), 2.0) is None
    assert interval(np.where(np.arange(100) < 11, np.nan, 1.0), 50) is None
    assert interval(np.where(np.arange(100) < 9, np.nan, 1.0), 50) == (1.0, 1.0)
    assert effective_clusters(np.asarray([3.0, 3.0, 3.0])) == pytest.approx(3)
    assert effective_clusters(np.asarray([100.0, 1.0])) == pytest.approx(101**2 / 10001)


def test_replicates_are_draws_of_whole_openings():
    sums = np.asarray([[1.0, 0.0], [10.0, 10.0], [100.0, 50.0]])
    seen = {tuple(row) for row in replicate(sums, lambda t: t, 3000)}
    wanted = {tuple(np.sum(some, axis=0)) for some in itertools.product(sums, repeat=3)}
    assert seen == wanted
    whole, cut = (replicate(sums, ratio, 64, seed=3) for _ in range(2))
    np.testing.assert_array_equal(whole, cut)


def test_replicates_in_blocks_are_as_good(monkeypatch):
    monkeypatch.setattr("kat.evaluation.intervals._CELLS", 700)
    sums = clustered(np.random.default_rng(0), 100)
    found = replicate(sums, ratio, 1000)
    assert found.shape == (1000, 1)
    assert found.std() == pytest.approx(cluster_error(*expanded(sums)), rel=0.15)


def expanded(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, weights and clusters of the pairs behind sums of (pairs, wins)."""
    values = np.concatenate([np.repeat([1.0, 0.0], [int(w), int(m - w)]) for m, w in sums])
    return values, np.ones(len(values)), np.repeat(np.arange(len(sums)), sums[:, 0].astype(int))


def test_the_standard_error_of_lone_pairs_is_the_textbooks():
    values = np.random.default_rng(0).normal(size=400)
    wanted = values.std(ddof=1) / 20
    assert cluster_error(values, np.ones(400), np.arange(400)) == pytest.approx(wanted)
    assert cluster_error(np.repeat(values, 3), np.ones(1200), np.repeat(np.arange(400), 3)) == pytest.approx(wanted)
    assert np.isnan(cluster_error(values, np.ones(400), np.zeros(400, int)))


def test_few_openings_are_flipped_in_every_way():
    d = np.asarray([0.5, -0.2, 1.0, 0.3, 0.0])
    sums = [
        abs(sum(s * x for s, x in zip(signs, d[:4], strict=True))) for signs in itertools.product((1, -1), repeat=4)
    ]
    assert sign_flip(d) == sum(s >= abs(d.sum()) - 1e-12 for s in sums) / 16
    assert sign_flip(np.ones(5)) == 2 / 32
    assert sign_flip(np.zeros(5)) == 1.0
    assert sign_flip(np.asarray([3.0])) == 1.0
    assert sign_flip(-d) == sign_flip(d)


def test_many_openings_agree_with_all_flips(monkeypatch):
    d = np.random.default_rng(2).normal(0.3, 1, EXACT)
    exact = sign_flip(d)
    monkeypatch.setattr("kat.evaluation.significance.EXACT", 4)
    assert sign_flip(d, flips=100_000) == pytest.approx(exact, abs=0.006)
    assert sign_flip(np.full(40, 1.0), flips=999) == 1 / 1000


@pytest.mark.parametrize("openings", [12, 80])
def test_p_values_are_uniform_where_there_is_no_difference(openings):
    rng = np.random.default_rng(openings)
    trials = 1500
    # Skewed sizes, symmetric signs: what holds if both models are equally good.
    p = np.asarray([sign_flip(rng.normal(size=openings) * rng.pareto(2.0, openings), 400, t) for t in range(trials)])
    grid = np.sort(p)
    distance = np.abs(grid - np.arange(1, trials + 1) / trials).max()
    print(f"{openings} openings: Kolmogorov distance {distance:.3f}, P(p <= 0.05) {(p <= 0.05).mean():.3f}")
    assert distance < 1.63 / np.sqrt(trials) + 1 / 400  # the 1 % point, and the grid of p-values
    for level in (0.01, 0.05, 0.1):
        assert (p <= level).mean() <= level + 2.6 * np.sqrt(level / trials)


@pytest.mark.parametrize("times", [0.0, 0.5, 1.0, 1.5])
def test_the_power_line_is_what_simulation_finds(times):
    """Differences in accuracy of −1, 0 and 1, pairs of an opening alike; the true effect is `times` the MDE."""
    rng = np.random.default_rng(int(times * 10))
    openings, found = 200, 0
    m = np.minimum(rng.zipf(2.2, openings), 20)
    place = np.repeat(np.arange(openings), m)

    def draw(effect: float) -> np.ndarray:
        lean = rng.normal(0, 0.15, openings)[place] + effect
        return (rng.random(len(place)) < 0.2 + lean / 2).astype(float) - (rng.random(len(place)) < 0.2 - lean / 2)

    weights = 1 / m[place]
    errors = [cluster_error(draw(0.0), weights, place) for _ in range(50)]
    effect = times * detectable(float(np.mean(errors)))
    trials = 600
    for trial in range(trials):
        d = np.bincount(place, weights * draw(effect))
        found += sign_flip(d, 400, trial) <= 0.05
    power = found / trials
    from statistics import NormalDist

    normal = NormalDist()
    wanted = normal.cdf(times * (normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) - normal.inv_cdf(0.975))
    print(f"{times} x MDE: power {power:.3f}, normal theory {wanted:.3f}")
    assert power == pytest.approx(wanted if times else 0.05, abs=0.06)
