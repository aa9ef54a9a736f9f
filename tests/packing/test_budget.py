"""Windows and packs: every row once, within the budget, and by lengths and options alone."""

from itertools import pairwise

import numpy as np
import pytest

from kat.errors import OptionError
from kat.packing.budget import EVEN, halves, packs, windows
from kat.packing.layout import Layout, pack


def test_windows_cover_all_rows_in_order():
    texts = [str(i) for i in range(10)]
    assert list(windows(iter(texts), 4)) == [texts[:4], texts[4:8], texts[8:]]
    assert list(windows(texts[:8], 4)) == [texts[:4], texts[4:8]]
    assert list(windows([])) == []


def test_windows_of_long_texts_hold_fewer():
    texts = ["a" * 6, "b" * 6, "c" * 30, "", "d"]
    assert list(windows(texts, 4, characters=10)) == [texts[:2], texts[2:3], texts[3:]]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("most", [None, 24])
def test_every_row_is_in_one_pack_within_the_budget(padded, most):
    lengths = np.random.default_rng(0).integers(1, 400, 1000)
    actual = packs(lengths, 2000, most, padded=padded)
    for rows in actual:
        size = lengths[rows].max() * len(rows) if padded else lengths[rows].sum()
        assert size <= 2000
        assert len(rows) <= (most or 1000)
    assert sorted(np.concatenate(actual).tolist()) == list(range(1000))
    assert (np.diff(lengths[np.concatenate(actual)]) <= 0).all()  # longest first


def test_many_packs_are_equal_and_divided_by_the_processes():
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 60, 2000), 250)
    sizes = [int(lengths[rows].sum()) for rows in packs(lengths, 4096)]
    assert len(sizes) % EVEN == 0
    assert len(sizes) - lengths.sum() / 4096 < EVEN + 1
    assert max(sizes) - min(sizes) < 2 * 250


def test_few_packs_are_full():
    lengths = np.full(100, 50)
    actual = packs(lengths, 2000)
    assert [int(lengths[rows].sum()) for rows in actual] == [2000, 2000, 1000]
    for rows, after in pairwise(actual):
        assert lengths[rows].sum() + lengths[after[0]] > 2000


def test_a_text_over_the_budget_has_a_pack_of_its_own():
    assert [p.tolist() for p in packs(np.asarray([3, 5000, 4]), 2000)] == [[1], [2, 0]]
    assert [p.tolist() for p in packs(np.asarray([3, 5000, 4]), 2000, padded=True)] == [[1], [2, 0]]
    assert packs(np.asarray([], int), 10) == []


@pytest.mark.parametrize(("budget", "most"), [(0, None), (10, 0)])
def test_an_empty_budget_is_refused(budget, most):
    with pytest.raises(OptionError, match="holds nothing"):
        packs(np.asarray([1]), budget, most)


def test_halves_are_near_the_middle_and_never_empty():
    assert halves(np.asarray([5, 5, 5, 5])) in (1, 2)
    assert halves(np.asarray([100, 1])) == 1
    assert halves(np.asarray([1, 100])) == 1
    assert halves(np.asarray([1, 1, 100])) == 2


def test_a_layout_knows_bounds_positions_and_runs():
    layout = Layout(np.asarray([3, 2, 2, 1, 3]))
    assert layout.bounds.tolist() == [0, 3, 5, 7, 8, 11]
    assert layout.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 0, 1, 2]
    assert [(r.start, r.count, r.length) for r in layout.runs] == [(0, 1, 3), (3, 2, 2), (7, 1, 1), (8, 1, 3)]
    ids, actual = pack([np.asarray([7, 8], np.int32), np.asarray([9], np.int32)])
    assert ids.tolist() == [7, 8, 9]
    assert actual.lengths.tolist() == [2, 1]
    with pytest.raises(ValueError, match="at least one token"):
        pack([np.asarray([], np.int32)])
