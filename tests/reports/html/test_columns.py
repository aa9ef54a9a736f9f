"""The map's columns: what the page decodes is what went in, within its grid, and fits into its bytes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from making_report import HOSTILE, noise, points, sentences

from kat.errors import InputError
from kat.reports.html import columns
from kat.reports.html.cells import clipped, visible


def column(packed, name, kind):
    return np.frombuffer(columns.unpacked(packed.columns[name]), kind)


@pytest.fixture(scope="module")
def some():
    given = points(700)
    return given, columns.with_texts(columns.pack(given), given.texts, 10_000_000)


def test_coordinates_come_back_within_half_a_step(some):
    given, packed = some
    low, span = np.array(packed.facts["low"]), np.array(packed.facts["span"])
    grid = np.stack([column(packed, "x", "<u2"), column(packed, "y", "<u2")], 1)
    error = np.abs(low + grid / 65535 * span - given.xy[packed.rows])
    assert (error <= span / 65535 / 2 * 1.001).all()


def test_values_come_back(some):
    given, packed = some
    for i, (name, values) in enumerate(given.numbers.items()):
        assert packed.facts["numbers"][i] == name
        np.testing.assert_array_equal(column(packed, f"number-{i}", "<f4"), values[packed.rows].astype("f4"))
    for i, (name, words) in enumerate(given.kinds.items()):
        kind = packed.facts["kinds"][i]
        assert kind["name"] == name
        decoded = [kind["values"][j] for j in column(packed, f"kind-{i}", "<u4")]
        assert decoded == [words[row] for row in packed.rows]
        counts = [decoded.count(word) for word in kind["values"][1:]]
        assert counts == sorted(counts, reverse=True)
        assert kind["values"][0] == ""
    assert column(packed, "ids", "u1").tobytes().hex() == "".join(given.ids[row] for row in packed.rows)
    assert columns.unpacked(packed.columns["texts"]).decode().split("\0") == [
        clipped(given.texts[r], 300) for r in packed.rows
    ]


def test_rare_points_are_drawn_last():
    given = points(300)
    rows = columns.pack(given).rows
    assert sorted(rows) == list(range(300))
    assert (np.diff(given.numbers["density"][rows]) <= 0).all()
    only = replace(given, numbers={"Weight": given.numbers["weight"]})
    assert (np.diff(given.numbers["weight"][columns.pack(only).rows]) >= 0).all()


def test_ids_of_any_kind_come_back():
    ids = ["plain", "\0nul\n", "lone \ud800", "שלום", "9" * 16]
    given = replace(points(5), ids=ids)
    packed = columns.pack(given)
    assert not packed.facts["hex"]
    assert json.loads(columns.unpacked(packed.columns["ids"])) == [ids[row] for row in packed.rows]


def test_hostile_texts_stay_apart():
    given = points(len(HOSTILE), HOSTILE)
    packed = columns.with_texts(columns.pack(given), given.texts, 1_000_000)
    texts = columns.unpacked(packed.columns["texts"]).decode().split("\0")
    assert texts == [clipped(HOSTILE[row], 300) for row in packed.rows]
    assert packed.clipped == sum(len(visible(text)) > 300 for text in HOSTILE) == 1


@pytest.mark.parametrize("room", [0, 300, 20_000, 100_000, 10_000_000])
def test_texts_fit_their_room_and_use_it(room):
    given = points(1000, noise(1000, np.random.default_rng(0)))
    packed = columns.with_texts(columns.pack(given), given.texts, room)
    size = len(packed.columns["texts"])
    assert size <= room or packed.letters == 0
    assert packed.letters <= 300
    if room == 100_000:
        assert size > 0.95 * room
        assert packed.clipped == 1000
    if room == 10_000_000:
        assert (packed.letters, packed.clipped) == (300, 0)


def test_too_many_points_are_sampled_always_alike(monkeypatch):
    monkeypatch.setattr(columns, "MOST_POINTS", 100)
    given = points(400)
    first, second = columns.pack(given), columns.pack(given)
    assert len(set(first.rows)) == 100
    assert (first.rows == second.rows).all()
    assert (first.facts["points"], first.facts["of"]) == (100, 400)


def test_no_points_and_one_point():
    for count in (0, 1):
        given = points(count)
        packed = columns.with_texts(columns.pack(given), given.texts, 1000)
        assert packed.facts["points"] == count
        json.dumps(packed.facts, allow_nan=False)


def test_what_does_not_belong_together_is_refused():
    given = points(5)
    with pytest.raises(InputError, match="5 points, but 4 values of texts"):
        columns.pack(replace(given, texts=sentences(4, np.random.default_rng(0))))
    with pytest.raises(InputError, match="6 values of length"):
        columns.pack(replace(given, numbers={"length": np.zeros(6)}))
    with pytest.raises(InputError, match="not finite"):
        columns.pack(replace(given, xy=np.full((5, 2), np.nan)))
