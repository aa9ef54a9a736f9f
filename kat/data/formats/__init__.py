"""Formats of preference rows: one file a format, recognised by keys and types alone.

A format is a file of this folder with `PLUGIN = Format(...)` in it (see `kat.plugins`). What it does not say itself is
checked here, the same for all: completions that are text, no two the same, no ties.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kat.data.conversations import Preference
from kat.data.rows import BadRow
from kat.plugins import FORMATS, load_all


@dataclass(frozen=True, slots=True)
class Format:
    """One format of preference rows.

    `name` is what files, tables and messages call it (statistics on disk hold it), `help` what stands in its columns.
    `matches` tells a row of this format from those of every other, whatever else the row holds: the formats exclude
    each other, so that their order means nothing. `parse` takes a row apart, one that matches or one that lacks parts;
    it raises BadRow, or the KeyError, TypeError or AttributeError of a part that is missing or of another type.
    `example` is a row of the format, for messages and tests.
    """

    name: str
    help: str
    matches: Callable[[dict[str, Any]], bool]
    parse: Callable[[dict[str, Any]], Preference]
    example: dict[str, Any]


@cache  # asked for every row that is not of its file's format
def formats() -> tuple[Format, ...]:
    """Return all formats, in the order of their files' names."""
    return tuple(load_all(FORMATS).values())


def format_of(value: dict[str, Any]) -> Format | None:
    """Return the format of a row, None if it has none that is known."""
    return next((each for each in formats() if each.matches(value)), None)


def parse_row(value: dict[str, Any], row_format: Format) -> Preference:
    """Take one row apart.

    Raises BadRow: a part is missing, null or no text; histories differ; a tie; an empty or repeated completion. Raises
    KeyError, TypeError or AttributeError for a row that is not of the format.
    """
    preference = row_format.parse(value)
    _refuse_tie(value)
    for name, text in (("chosen", preference.chosen), ("rejected", preference.rejected)):
        if not isinstance(text, str):
            raise BadRow(f"{name} is null or not text")
        if not text or text.isspace():
            raise BadRow(f"{name} is empty")
    if preference.chosen == preference.rejected:
        raise BadRow("chosen equals rejected")
    return preference


def _refuse_tie(value: dict[str, Any]) -> None:
    if "score_chosen" not in value and "score_rejected" not in value:
        return
    scores = value.get("score_chosen"), value.get("score_rejected")
    if None in scores:
        return  # an unscored row counts by its order
    # A whole number may be too large for a float, which `isfinite` would raise for.
    if not all(isinstance(s, int) or (isinstance(s, float) and math.isfinite(s)) for s in scores):
        raise BadRow("score_chosen or score_rejected is not a number")
    if scores[0] == scores[1]:
        raise BadRow("a tie: score_chosen equals score_rejected")


def expected_formats() -> str:
    """Return the end of a message about rows of no known format: every format with its example."""
    lines = ["expected one of"]
    for each in formats():
        lines.append(f"    {each.name:<14} {each.help}")
        lines.append(f"    {'':<14} {json.dumps(each.example, ensure_ascii=False)}")
    return "\n".join(lines)
