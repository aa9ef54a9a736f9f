"""What is kept of pairs, against the rows that were written, and against lists, sets and dictionaries."""

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from making import jsonl, pair, turn, write

from kat import read_pairs, records
from kat.data import pair_columns, texts
from kat.data.openings import opening_id
from kat.data.pair_columns import collect_columns
from kat.data.repeats import pair_parts


def test_every_pair_keeps_its_place_and_its_lengths(tmp_path):
    rows = [
        pair("How?", "good", "bad one", id="a", src="x"),
        pair("Why?", "é" * 5, "no", id="b", src="y"),
        "",
        pair("How?", "fine", "bad", id="c", src="x", after=(turn("assistant", "So."), turn("user", "And?"))),
    ]
    columns = collect_columns(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
    assert list(columns.pair_ids) == ["a", "b", "c"]
    assert columns.row.tolist() == [1, 2, 4]
    assert list(columns.src) == ["x", "y", "x"]
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
    assert list(columns.pair_ids) == ["a", "a#2", "a#3", "a#2#2", "b"]
    assert columns.renamed == 3
    np.testing.assert_array_equal(columns.duplicate, [False, True, False, True, False])


def slow_columns(pairs):
    """Every column of `PairColumns` from lists, sets and dictionaries."""
    columns = {name: [] for name in ("pair_ids", "row", "src", "opening", "opening_chars", "chosen_chars")}
    columns |= {"rejected_chars": [], "duplicate": [], "labels": {}}
    openings, taken, used, contents, renamed = {}, set(), Counter(), set(), 0
    for one in pairs:
        name = one.id
        while name in taken:
            used[one.id] += 1
            name = f"{one.id}#{used[one.id] + 1}"
        renamed += name != one.id
        taken.add(name)
        columns["pair_ids"].append(name)
        if one.prefix.id not in openings:
            openings[one.prefix.id] = len(openings)
            columns["opening_chars"].append(len(one.prefix.opening))
        columns["opening"].append(openings[one.prefix.id])
        columns["row"].append(one.row)
        columns["src"].append(one.src)
        columns["chosen_chars"].append(len(one.chosen))
        columns["rejected_chars"].append(len(one.rejected))
        content = tuple(pair_parts(one))
        columns["duplicate"].append(content in contents)
        contents.add(content)
        for label, value in one.labels.items():
            columns["labels"].setdefault(label, []).append(value)
    return columns | {"renamed": renamed, "opening_ids": list(openings)}


def compare(columns, expected):
    for name, values in expected.items():
        own = getattr(columns, name)
        if name == "labels":
            own = {label: list(column) for label, column in own.items()}
        elif name != "renamed":
            assert len(own) == len(values), name
            own = own.tolist() if isinstance(own, np.ndarray) else list(own)
        assert own == values, name


def drawn_pairs(seed, ids, n=300, hexadecimal=True):
    """Pairs of few openings and completions, so that many repeat."""
    draw = random.Random(seed)
    pairs = []
    for row in range(n):
        text = "x" * draw.randint(1, 30)
        own = opening_id(text) if hexadecimal or draw.random() < 0.5 else f"context {text}"
        prefix = records.Prefix(own, [{"role": "user", "content": text + " " * draw.randint(0, 2)}])
        chosen, rejected = (draw.choice(("", "é", "no", "yes", "why \U0001f600")) for _ in range(2))
        labels = {"task": draw.choice("abc"), "place": f"p{draw.randint(0, 50)}"}
        own = ids(draw, row), prefix, chosen, rejected
        pairs.append(records.Pair(*own, src=draw.choice(("x", "y")), row=row + 1, labels=labels))
    return pairs


IDS = {
    "distinct": lambda draw, row: f"id {row}",
    "one": lambda draw, row: "a",
    "repeated": lambda draw, row: f"id {draw.randint(0, 200)}",
    "numbered": lambda draw, row: f"kat#{row}",
    "numbered and repeated": lambda draw, row: f"kat#{draw.randint(0, 200)}",
    "like new names": lambda draw, row: draw.choice("ab") + "#2" * draw.randint(0, 3) + draw.choice(("", "#3", "#x")),
    "odd": lambda draw, row: draw.choice(("", "#", "#2", "a#02", "a#2\n", "é#2", "é", "a#1", "a", "\0")),
}


@pytest.mark.parametrize("hexadecimal", [True, False], ids=["hex", "others"])
@pytest.mark.parametrize("block", [7, texts.BLOCK])
@pytest.mark.parametrize("ids", IDS)
def test_columns_are_what_lists_and_sets_hold(ids, block, hexadecimal, monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", block)
    monkeypatch.setattr(pair_columns, "BLOCK", block)
    for seed in range(6):
        pairs = drawn_pairs(seed, IDS[ids], (0, 1, 7, 14, 150, 300)[seed], hexadecimal)
        compare(collect_columns(iter(pairs)), slow_columns(pairs))


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch):
    """Equal hashes make pairs candidates, no more: with few hashes, and digests that agree in one half."""
    monkeypatch.setattr(pair_columns, "hash", lambda text: len(text) % 2, raising=False)

    def half(one):
        return bytes(8) + hashlib.sha256(repr(pair_parts(one)).encode()).digest()[:8]

    monkeypatch.setattr(pair_columns, "_digest", half)
    for name in IDS:
        pairs = drawn_pairs(3, IDS[name])
        compare(collect_columns(pairs), slow_columns(pairs))


def test_random_ids_of_few_letters(monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", 5)
    monkeypatch.setattr(pair_columns, "BLOCK", 5)
    for seed in range(300):
        pairs = drawn_pairs(seed, lambda draw, row: "".join(draw.choices("a#2", k=draw.randint(0, 4))), 40)
        compare(collect_columns(pairs), slow_columns(pairs))
