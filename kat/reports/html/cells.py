"""Values and texts as a page shows them: numbers formatted, and characters that nobody can see made visible."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

from kat.reports.blocks import Format, Value
from kat.terminal import escaped

DASH = "–"
_BLANKS = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_HIDDEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_BREAKS = re.compile(r"(\r\n|[\n\t])")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_BACK = 32


def visible(text: str) -> str:
    """Return text that HTML can hold: as the console escapes it (`kat.terminal.escaped`), but lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    parts = _BREAKS.split(text)
    return "".join("\n" if part == "\r\n" else part if part in ("\n", "\t") else _line(part) for part in parts)


def _line(text: str) -> str:
    # Most texts in any script take this way, which needs no look at each character.
    plain = _BLANKS.sub("", text).isprintable() and not _HIDDEN.search(text)
    return text if plain else escaped(text)


def fits(text: str, most: int) -> bool:
    """Return whether text, once it is visible, has at most so many characters."""
    return len(_start(text, most)) <= most


def clipped(text: str, most: int) -> str:
    """Return visible text of at most so many characters; what is left out is marked by … and splits no character."""
    seen = _start(text, most)
    if len(seen) <= most:
        return seen
    if most <= 1:
        return "…"[:most]
    last = most - 1
    cuts = (
        cut for cut in range(last, max(last - _MOST_BACK, -1), -1) if not cut or not _joined(seen[cut - 1], seen[cut])
    )
    return f"{seen[: next(cuts, last)]}…"


def _start(text: str, most: int) -> str:
    # A character that is escaped becomes several, but a line break of two one: of twice as many some are always left.
    return visible(text[: 2 * most + 2])


def _joined(before: str, after: str) -> bool:
    """Whether a cut between two characters would split what is seen as one."""
    if before.isascii() and after.isascii():
        return False
    if before == "\u200d" or after in "\u200d\u20e3" or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    flag = all("\U0001f1e6" <= char <= "\U0001f1ff" for char in (before, after))
    return flag or unicodedata.category(after) in ("Mn", "Me", "Mc")


def shown(value: Value, form: Format = "number") -> str:
    """Return a value as a reader sees it. Shares are fractions: 0.123 is 12.3%, a difference of 0.012 +1.2 points."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return _FORMATS[form](value).replace("-", "−")


def raw(value: Value) -> str | None:
    """Return a number as Python writes it in full, so that a page can be compared with the files; None for others."""
    if value is None or isinstance(value, str):
        return None
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _number(value: float) -> str:
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 1e-3:
        return f"{value:.{2 - min(2, math.floor(math.log10(size)))}f}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits} × 10{str(int(power)).translate(_SUPERSCRIPT)}"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def _seconds(value: float) -> str:
    if abs(value) < 120:
        return f"{value:.1f} s" if abs(value) >= 0.1 else f"{1000 * value:.0f} ms"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes:,} min {seconds} s" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


_FORMATS: dict[str, Callable[[float], str]] = {
    "text": _number,
    "id": str,
    "count": lambda value: f"{value:,.0f}",
    "number": _number,
    "percent": lambda value: f"{value:.1%}",
    "points": lambda value: f"{100 * value:+.1f} points",
    "bytes": _bytes,
    "seconds": _seconds,
}
