"""What weightings are found to do: differences by hand, Holm by hand, seeds that widen, and no gain out of nothing."""

import numpy as np
import pytest

from kat.evaluation.evaluate import compare
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import EVERY, RARE, best_of, holm, tried_facts, try_weightings


def pairs_of(n: int = 400, seed: int = 0) -> EvalPairs:
    rng = np.random.default_rng(seed)
    opening = rng.integers(0, n // 2, n)
    return EvalPairs(
        ids=[f"p{i}" for i in range(n)],
        opening=[f"o{x}" for x in opening],
        src=[f"s{x % 2}" for x in opening],
        bin=(opening % 5).astype(np.int8),
    )


def none_of(count: int, n: int) -> dict[str, np.ndarray]:
    nothing = np.full((count, 0, n), np.nan)
    return {"permuted_losses": nothing, "permuted_wins": nothing}


def drawn(pairs: EvalPairs, gain: float, seeds: int = 3, noise: float = 0.3, cost: float = 0.0) -> np.ndarray:
    """Margins [2, S, P] of a uniform arm and one that is `gain` better where it is rare and `cost` worse elsewhere."""
    rng = np.random.default_rng(1)
    base = rng.normal(0.5, 1.0, len(pairs))
    uniform = base + noise * rng.normal(size=(seeds, len(pairs)))
    other = base + np.where(pairs.bin == 0, gain, -cost) + noise * rng.normal(size=(seeds, len(pairs)))
    return np.stack([uniform, other])


def test_differences_are_of_mean_margins():
    pairs = pairs_of()
    margins = drawn(pairs, 0.4)
    (found,) = try_weightings(pairs, ["uniform", "a"], margins, **none_of(2, 400), replicates=200)
    one, other = margins[1].mean(0), margins[0].mean(0)
    rare = pairs.bin == 0
    assert found.gains[RARE].accuracy.value == pytest.approx((one[rare] > 0).mean() - (other[rare] > 0).mean())
    loss = np.logaddexp(0, -one) - np.logaddexp(0, -other)
    assert found.gains[EVERY].log_loss.value == pytest.approx(loss.mean())
    opening = np.asarray(pairs.opening)
    by_opening = np.mean([loss[opening == o].mean() for o in set(pairs.opening)])
    assert found.gains["every opening"].log_loss.value == pytest.approx(by_opening)
    assert set(found.sources) == {"s0", "s1"}
    assert found.sources["s1"].log_loss.value == pytest.approx(loss[np.asarray(pairs.src) == "s1"].mean())
    assert set(found.gains) == {EVERY, "every opening", *(f"bin {b}" for b in range(5))}


def test_the_variance_between_seeds_widens_intervals():
    pairs = pairs_of()
    margins = drawn(pairs, 0.4, seeds=4)
    zero = np.zeros(400)
    plain = compare(pairs, (margins[1].mean(0), zero), (margins[0].mean(0), zero), replicates=500)
    (found,) = try_weightings(pairs, ["uniform", "a"], margins, **none_of(2, 400), replicates=500)
    narrow, wide = (x.interval for x in (plain.all["unweighted"]["log_loss"], found.gains[EVERY].log_loss))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    losses = np.logaddexp(0, -margins[1]) - np.logaddexp(0, -margins[0])
    between = losses.mean(1).var(ddof=1) / 4
    opening = np.unique(pairs.opening, return_inverse=True)[1]
    mean = losses.mean(0)
    residual = np.bincount(opening, mean - mean.mean())
    x = len(residual[np.unique(opening)])
    within = x / (x - 1) * np.square(residual).sum() / 400**2
    ratio = (wide[1] - wide[0]) / (narrow[1] - narrow[0])
    assert ratio == pytest.approx(np.sqrt(1 + between / within), rel=1e-6)
    # The same margins for every seed have nothing to add.
    (same,) = try_weightings(pairs, ["uniform", "a"], margins[:, [0, 0, 0]], **none_of(2, 400), replicates=500)
    (alone,) = try_weightings(pairs, ["uniform", "a"], margins[:, :1], **none_of(2, 400), replicates=500)
    assert same.gains[EVERY].log_loss.interval == pytest.approx(alone.gains[EVERY].log_loss.interval)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def permutations_of(margins: np.ndarray, gain: float, pairs: EvalPairs, count: int = 20) -> dict[str, np.ndarray]:
    """Outcomes of permutations that are `gain` better than uniform where it is rare."""
    rng = np.random.default_rng(2)
    moved = margins[0].mean(0) + gain * (pairs.bin == 0) + 0.05 * rng.normal(size=(count, len(pairs)))
    losses, won = np.full((2, count, len(pairs)), np.nan), np.full((2, count, len(pairs)), np.nan)
    losses[1], won[1] = np.logaddexp(0, -moved), moved > 0
    return {"permuted_losses": losses, "permuted_wins": won}


@pytest.mark.parametrize(
    ("gain", "cost", "theirs", "helps"),
    [
        (0.8, 0.0, 0.0, True),
        (0.8, 0.6, 0.0, False),  # every pair pays
        (0.8, 0.0, 1.6, False),  # permutations do better: it is not the geometry
        (0.0, 0.0, -0.5, False),  # nothing gained
        (-0.8, 0.0, -2.0, False),
    ],
)
def test_what_helps(gain, cost, theirs, helps):
    pairs = pairs_of(3000)
    margins = drawn(pairs, gain, cost=cost)
    moved = permutations_of(margins, theirs, pairs)
    (found,) = try_weightings(pairs, ["uniform", "a"], margins, **moved, replicates=300)
    assert found.helps is helps
    assert best_of([found]) is (found if helps else None)
    rare = pairs.bin == 0
    own = np.logaddexp(0, -margins[1]).mean(0)[rare]
    ahead = own.mean() - moved["permuted_losses"][1][:, rare].mean()
    assert found.permuted.ahead == pytest.approx(ahead)
    assert found.permuted.ahead_interval[0] < ahead < found.permuted.ahead_interval[1]
    assert found.permuted.rank == 1 + (moved["permuted_losses"][1][:, rare].mean(1) < own.mean()).sum()


def test_without_bins_nothing_is_said_of_the_rare():
    pairs = pairs_of()
    plain = EvalPairs(pairs.ids, pairs.opening, pairs.src)
    (found,) = try_weightings(plain, ["uniform", "a"], drawn(pairs, 0.8), **none_of(2, 400), replicates=100)
    assert not found.helps
    assert found.p == 1
    assert tried_facts(found)["gains"].keys() == {EVERY, "every opening"}


def test_noise_helps_seldom():
    """Of 60 sets in which no arm is better than another, at most 5 % have one that is found, by Holm."""
    rng, wrong = np.random.default_rng(5), 0
    for seed in range(60):
        pairs = pairs_of(150, seed)
        base = rng.normal(0.5, 1.0, 150)
        margins = base + rng.normal(0, 0.3, (4, 2, 150))
        found = try_weightings(pairs, list("u123"), margins, **none_of(4, 150), replicates=50)
        wrong += best_of(found) is not None
    assert wrong <= 8  # 99 % of a binomial of 0.05
