"""Values and texts as a page shows them."""

import math
import unicodedata

import pytest

from kat.reports.html.cells import clipped, fits, raw, shown, visible
from kat.terminal import escaped


@pytest.mark.parametrize(
    ("value", "form", "told"),
    [
        (1234567, "count", "1,234,567"),
        (1234.0, "count", "1,234"),
        (0.12345, "number", "0.123"),
        (12.345, "number", "12.3"),
        (123.45, "number", "123"),
        (-0.5, "number", "−0.500"),
        (1234.5, "number", "1,234"),
        (0.00001234, "number", "1.2 × 10⁻⁵"),
        (5, "number", "5"),
        (0.123, "percent", "12.3%"),
        (0.0123, "points", "+1.2 points"),
        (-0.004, "points", "−0.4 points"),
        (999, "bytes", "999 B"),
        (48_234_567, "bytes", "48.2 MB"),
        (1.25, "seconds", "1.2 s"),
        (0.05, "seconds", "50 ms"),
        (340.0, "seconds", "5 min 40 s"),
        (8000, "seconds", "2 h 13 min"),
        (None, "number", "–"),
        (math.nan, "percent", "–"),
        (math.inf, "number", "∞"),
        (-math.inf, "points", "−∞"),
        (True, "text", "yes"),
        ("12", "count", "12"),
    ],
)
def test_values(value, form, told):
    assert shown(value, form) == told


def test_raw_numbers_come_back():
    for value in (0.1 + 0.2, 1e-300, -7, 123456789012345678):
        assert type(value)(raw(value)) == value
    assert [raw(True), raw(None), raw("7")] == ["true", None, None]


def test_what_cannot_be_seen_is_escaped_as_the_console_does_but_lines_stay():
    assert visible("a\tb\r\nc\nd\re") == "a\tb\nc\nd\\re"
    assert visible("nul\0 \ud800 \u202e \u2028") == r"nul\x00 \ud800 \u202e \u2028"
    assert visible("á 日本\u3000語 👩🏽‍💻 مرحبا") == "á 日本\u3000語 👩🏽‍💻 مرحبا"


def test_the_fast_way_and_the_console_agree_on_every_character():
    for code in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFDF0, 0x10000), *range(0x1F1E0, 0x1F650), 0xE0101]:
        char = chr(code)
        if char not in "\n\t":
            text = f"é{char}x"
            assert visible(text) == escaped(text), hex(code)


def test_clipped_texts_are_beginnings_marked():
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abcdefg", 6) == "abcde…"
    assert [clipped("abc", n) for n in (0, 1, 2)] == ["", "…", "a…"]
    assert clipped("\0" * 100, 10) == r"\x00\x00\…"
    assert len(clipped("x" * 400_000, 300)) == 300


def test_what_fits_is_what_is_not_clipped():
    for text in ("", "abc", "\r\n" * 6, "\0\0", "abcdefg", "\r\n" * 7, "e\u0301" * 3, "e\u0301" * 4):
        assert fits(text, 6) == (not clipped(text, 6).endswith("…")) == (len(visible(text)) <= 6), text


@pytest.mark.parametrize("whole", ["e\u0301\u0323", "👩🏽‍💻", "🇩🇪", "क्षि"])
def test_no_character_is_split(whole):
    for most in range(2, 40):
        part = clipped(whole * 20, most)
        assert len(part) <= most
        body = part.removesuffix("…")
        assert body == "" or (whole * 20).startswith(body)
        after = (whole * 20)[len(body) : len(body) + 1]
        if body:
            assert unicodedata.category(after) not in ("Mn", "Mc", "Me"), part
            assert not body.endswith("\u200d")
            assert after != "\u200d"
