"""What is kept of pairs, against the rows that were written."""

import numpy as np
from making import jsonl, pair, turn, write

from kat import read_pairs
from kat.data.pair_columns import collect_judged


def test_every_pair_keeps_its_place_and_its_lengths(tmp_path):
    rows = [
        pair("How?", "good", "bad one", id="a", src="x"),
        pair("Why?", "é" * 5, "no", id="b", src="y"),
        "",
        pair("How?", "fine", "bad", id="c", src="x", after=(turn("assistant", "So."), turn("user", "And?"))),
    ]
    found = collect_judged(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
    assert found.pair_ids == ["a", "b", "c"]
    assert found.row.tolist() == [1, 2, 4]
    assert found.src == ["x", "y", "x"]
    assert found.opening.tolist() == [0, 1, 0]
    assert found.opening_chars.tolist() == [4, 4]
    assert found.chosen_chars.tolist() == [4, 5, 4]
    assert found.rejected_chars.tolist() == [7, 2, 3]
    assert not found.duplicate.any()
    assert found.renamed == 0
    assert len(found) == 3


def test_ids_become_distinct_and_copies_are_marked(tmp_path):
    rows = [
        pair("How?", "good", "bad", id="a"),
        pair("How?", "good", "bad", id="a"),  # a copy
        pair("How?", "bad", "good", id="a"),  # the reverse is none
        pair("How?", "good", "bad", id="a#2"),  # an id that renaming would give
        pair("How?", "goo", "dbad", id="b"),  # the same characters otherwise cut
    ]
    found = collect_judged(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
    assert found.pair_ids == ["a", "a#2", "a#3", "a#2#2", "b"]
    assert found.renamed == 3
    np.testing.assert_array_equal(found.duplicate, [False, True, False, True, False])
