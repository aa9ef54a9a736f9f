"""What is kept of pairs, against the rows that were written."""

import numpy as np
from making import jsonl, pair, turn, write

from kat import read_pairs
from kat.data.pair_columns import collect_columns


def test_every_pair_keeps_its_place_and_its_lengths(tmp_path):
    rows = [
        pair("How?", "good", "bad one", id="a", src="x"),
        pair("Why?", "é" * 5, "no", id="b", src="y"),
        "",
        pair("How?", "fine", "bad", id="c", src="x", after=(turn("assistant", "So."), turn("user", "And?"))),
    ]
    columns = collect_columns(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
    assert columns.pair_ids == ["a", "b", "c"]
    assert columns.row.tolist() == [1, 2, 4]
    assert columns.src == ["x", "y", "x"]
    assert columns.opening.tolist() == [0, 1, 0]
    assert columns.opening_chars.tolist() == [4, 4]
    assert columns.chosen_chars.tolist() == [4, 5, 4]
    assert columns.rejected_chars.tolist() == [7, 2, 3]
    assert not columns.duplicate.any()
    assert columns.renamed == 0
    assert len(columns) == 3


def test_ids_become_distinct_and_duplicates_are_marked(tmp_path):
    rows = [
        pair("How?", "good", "bad", id="a"),
        pair("How?", "good", "bad", id="a"),  # a duplicate
        pair("How?", "bad", "good", id="a"),  # the reverse is none
        pair("How?", "good", "bad", id="a#2"),  # an id that renaming would give
        pair("How?", "goo", "dbad", id="b"),  # the same characters otherwise cut
    ]
    columns = collect_columns(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
    assert columns.pair_ids == ["a", "a#2", "a#3", "a#2#2", "b"]
    assert columns.renamed == 3
    np.testing.assert_array_equal(columns.duplicate, [False, True, False, True, False])
