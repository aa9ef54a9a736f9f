"""The order of prompts: openings as often as their weights say, groups together, the same on every rank."""

from collections import Counter

import numpy as np
import pytest

from kat.density.opening_order import OpeningOrder
from kat.errors import InputError, MismatchError, OptionError
from kat.integrations.sampling import DensityRepeatSampler


def order_of(seed: int = 0, n: int = 60, openings: int = 20):
    rng = np.random.default_rng(seed)
    opening = [f"o{i}" for i in rng.integers(0, openings, n)]
    weights = {f"o{i}": float(w) for i, w in enumerate(np.exp(rng.normal(size=openings)))}
    return OpeningOrder(opening, weights, seed), opening, weights


@pytest.mark.parametrize("number", range(5))
def test_openings_are_drawn_as_often_as_their_weights_say(number):
    order, opening, weights = order_of()
    rows = order.rows(600, number)
    counts = Counter(opening[row] for row in rows)
    total = sum(weights[one] for one in set(opening))
    for one in set(opening):
        expected = 600 * weights[one] / total
        assert np.floor(expected - 1e-9) <= counts[one] <= np.ceil(expected + 1e-9)
        used = [counts_of for row, counts_of in Counter(rows.tolist()).items() if opening[row] == one]
        assert max(used) - min(used) <= 1  # an opening's rows take turns
    np.testing.assert_array_equal(rows, order.rows(600, number))
    assert (rows != order.rows(600, number + 1)).any()


def test_over_many_passes_frequencies_are_the_weights():
    order, opening, weights = order_of()
    counts = Counter(opening[row] for number in range(400) for row in order.rows(60, number))
    total = sum(weights[one] for one in set(opening))
    for one in set(opening):
        assert counts[one] / (400 * 60) == pytest.approx(weights[one] / total, abs=0.004)


@pytest.mark.parametrize(
    ("generations", "batch", "repeats", "ranks", "size"),
    [(4, 3, 2, 1, 6), (2, 8, 6, 2, 4), (8, 1, 1, 4, 2), (3, 4, 4, 2, 6)],
)
def test_groups_stay_together_on_every_rank(generations, batch, repeats, ranks, size):
    order, _, _ = order_of()
    sampler = DensityRepeatSampler(order, 60, generations, batch, repeats)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 60 // batch * batch * generations * repeats
    block = batch * generations
    blocks = [rows[i : i + block] for i in range(0, len(rows), block)]
    for start in range(0, len(blocks), repeats):
        assert all(one == blocks[start] for one in blocks[start : start + repeats])
    for one in blocks:
        for start in range(0, block, generations):
            assert len(set(one[start : start + generations])) == 1
    drawn_rows = [one[start] for one in blocks[::repeats] for start in range(0, block, generations)]
    np.testing.assert_array_equal(drawn_rows, order.rows(60 // batch * batch, 0))
    # Ranks take consecutive slices of each step: together they see every group whole.
    for step in range(0, len(rows), ranks * size):
        seen = Counter(rows[step : step + ranks * size])
        if (ranks * size) % generations == 0:
            assert all(count % generations == 0 for count in seen.values())


def test_every_pass_is_another_draw_and_every_rank_makes_the_same():
    one, other = (DensityRepeatSampler(order_of()[0], 60, 2, 3) for _ in range(2))
    first, second = list(one), list(one)
    assert first != second
    assert (list(other), list(other)) == (first, second)
    other.set_epoch(0)
    assert list(other) == first


def test_seeds_that_follow_each_other_share_no_pass():
    opening, weights = [f"o{i}" for i in range(60)], {f"o{i}": 1.0 + i for i in range(60)}
    passes = {tuple(OpeningOrder(opening, weights, seed).rows(60, number)) for seed in range(5) for number in range(5)}
    assert len(passes) == 25


def test_openings_without_weights_are_named():
    with pytest.raises(MismatchError, match="1 openings of the data set have no weight, first b"):
        OpeningOrder(["a", "b"], {"a": 1.0})
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"weight of opening b is {wrong}; expected a positive number"):
            OpeningOrder(["a", "b"], {"a": 1.0, "b": wrong})
    with pytest.raises(OptionError, match="do not fill a generation batch"):
        DensityRepeatSampler(OpeningOrder(["a"], {"a": 1.0}), 1, 2, 4)
