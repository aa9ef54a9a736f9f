"""Columns of text against lists of the same texts."""

import random

import numpy as np
import pyarrow as pa
import pytest

from kat.data import texts
from kat.data.texts import ArrowTexts, HexTexts, arrow_texts, coded_texts, hex_number, hex_texts, rows_of, text_column

WORDS = ["", "a", "b", "ab", "é", "\U0001f600", "ｚ", "a\0", "#2", "\n"]
NUMBERS = [0, 1, 0xABC, 1 << 63, (1 << 64) - 1]


def drawn(seed, n):
    draw = random.Random(seed)
    return draw.choices(WORDS, k=n)


def columns(seed, n):
    """Columns of every kind, each with the list that it holds."""
    words = drawn(seed, n)
    yield arrow_texts(words), words
    cut = [pa.array(words[: n // 3], pa.large_string()), pa.array(words[n // 3 :], pa.large_string())]
    yield ArrowTexts(pa.chunked_array(cut)), words
    yield coded_texts(np.asarray([WORDS.index(word) for word in words], np.int8), WORDS), words
    numbers = random.Random(seed).choices(NUMBERS, k=n)
    yield HexTexts(np.asarray(numbers, np.uint64)), [f"{number:016x}" for number in numbers]
    yield arrow_texts(words).coded(), words
    yield text_column(np.asarray(words, object)), words


@pytest.fixture(autouse=True, params=[3, texts.BLOCK])
def block(request, monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", request.param)


@pytest.mark.parametrize("n", [0, 1, 3, 10, 40])
def test_a_column_is_the_list_it_was_made_of(n):
    for seed in range(4):
        for column, expected in columns(seed, n):
            assert (list(column), len(column)) == (expected, n)
            assert column.objects().dtype == object
            assert column.objects().tolist() == np.asarray(column, object).tolist() == expected
            assert list(column[1:-1:2]) == expected[1:-1:2]
            assert column.chunks(n // 2, n).to_pylist() == expected[n // 2 :]
            assert column.chunks(n // 2, n).type == pa.string()
            rows = np.asarray(random.Random(seed).choices(range(n), k=2 * n), np.int64)
            assert list(column.take(rows)) == [expected[row] for row in rows]
            assert column.order().tolist() == sorted(range(n), key=expected.__getitem__)
            if n:
                assert (column[0], column[-1]) == (expected[0], expected[-1])
            with pytest.raises(IndexError):
                column[n]


@pytest.mark.parametrize("n", [0, 1, 40])
def test_codes_say_which_rows_have_the_same_text(n):
    for column, expected in columns(0, n):
        coded = column.coded()
        assert list(coded) == expected
        assert len(set(coded.names)) == len(coded.names)
        names, place = coded.distinct()
        assert list(names) == sorted(set(expected))
        assert [names[number] for number in place.tolist()] == expected
        assert coded.equals("a").tolist() == [text == "a" for text in expected]


def test_hex_digits_are_numbers_and_nothing_else_is():
    for number in NUMBERS:
        assert hex_number(f"{number:016x}") == number
    held = [f"{number:016x}" for number in NUMBERS]
    assert hex_texts(held).numbers.tolist() == NUMBERS
    assert hex_texts(arrow_texts(held)).numbers.tolist() == NUMBERS
    for odd in ("", "abc", "000000000000001F", "-000000000000001", "0x00000000000001", "0_00000000000001", "é" * 16):
        assert hex_number(odd) is None
        assert hex_texts([*held, odd]) is None
    assert hex_number("1" + "0" * 16) is None


def test_rows_are_those_of_a_dictionary():
    draw = random.Random(0)
    for kind in (hex, "id {}".format):
        known = [kind(number) for number in draw.sample(range(100), 40)]
        asked = [kind(number) for number in draw.choices(range(100), k=90)]
        places = {text: row for row, text in enumerate(known)}
        assert rows_of(asked, known).tolist() == [places.get(text, -1) for text in asked]
        assert rows_of(arrow_texts(asked), known).tolist() == [places.get(text, -1) for text in asked]
    known, asked = ([f"{number:016x}" for number in part] for part in (NUMBERS, [*NUMBERS[::-1], 7]))
    assert rows_of(hex_texts(asked), known).tolist() == [4, 3, 2, 1, 0, -1]
    assert rows_of([], known).tolist() == []
    assert rows_of(known, []).tolist() == [-1] * 5


def test_what_is_no_unicode_is_refused():
    with pytest.raises(UnicodeEncodeError):
        arrow_texts(["a", "\ud800"])
