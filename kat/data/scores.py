"""Scores beside a preference: whether they agree with its order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from kat.data.rows import BadRow

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONGEST = 1_000
"""Characters of a number; Python refuses to read whole ones of some thousands."""
_SHOWN = 40
MAIN = ("score_chosen", "score_rejected")


def refuse_tie(value: dict[str, Any]) -> None:
    """Raise BadRow if the main scores are equal, or no numbers. A row that lacks one counts by its order."""
    if MAIN[0] not in value and MAIN[1] not in value:
        return
    scores = value.get(MAIN[0]), value.get(MAIN[1])
    if None in scores:
        return
    # A whole number may be too large for a float, which `isfinite` would raise for.
    if not all(isinstance(s, int) or (isinstance(s, float) and math.isfinite(s)) for s in scores):
        raise BadRow("score_chosen or score_rejected is not a number")
    if scores[0] == scores[1]:
        raise BadRow("a tie: score_chosen equals score_rejected")


def opposed(value: dict[str, Any], columns: Iterable[tuple[str, str]]) -> tuple[list[str], bool, list[str]]:
    """Return what scores say against a row's order, by name; whether others agree with it; and what else is odd.

    The last are ties and scores that are no numbers.
    """
    against, agreed, odd = [], False, []
    for chosen, rejected in columns:
        given = value[chosen], value[rejected]
        if None in given:
            continue
        scores = [_number(each) for each in given]
        if scores[0] is None or scores[1] is None:
            odd.append(f"{chosen} or {rejected} is no number, not compared")
        elif scores[0] == scores[1]:
            odd.append(f"a tie: {chosen} equals {rejected}")
        elif scores[0] < scores[1]:
            against.append(f"{chosen} is below {rejected}")
        else:
            agreed = True
    return against, agreed, odd


def number_in_text(name: str, text: str) -> float | int | None:
    """Return the number that a cell of text holds, None for an empty one. Raises BadRow for any other text."""
    text = text.strip()
    if not text:
        return None
    if _NUMBER.fullmatch(text) and len(text) <= _LONGEST:
        number = float(text) if not text.lstrip("+-").isdigit() else int(text)
        if isinstance(number, int) or math.isfinite(number):
            return number
    shown = ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
    raise BadRow(f"column {name} holds {shown}, which is no finite number (--drop_columns {name})")


def margin_contradicts(margin: float | None, against: bool, agreed: bool) -> bool:
    """Tell whether a margin has the other sign than the scores, if these are of one mind."""
    if not margin or against == agreed:
        return False
    return (margin < 0) == agreed


def _number(value: Any) -> float | int | None:
    """A score: a number, a list of one, or the text of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None
