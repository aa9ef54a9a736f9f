"""A question and two answers, under `chosen` and `rejected`, or `response_j` (better) and `response_k`."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, has_completions, whole_conversations
from kat.data.formats import Format, context_column
from kat.data.rows import BadRow

_PAIRS = (("chosen", "rejected"), ("response_j", "response_k"))


def _answers(value: dict[str, Any]) -> tuple[str, str] | None:
    """The columns of the answers."""
    for better, worse in _PAIRS:
        if better in value or worse in value:
            sides = {"chosen": value.get(better), "rejected": value.get(worse)}
            return (better, worse) if has_completions(sides) else None
    return None


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds a question, and answers that do not hold it themselves."""
    return context_column(value) == "question" and _answers(value) is not None and not whole_conversations(value)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    if not isinstance(value["question"], str):
        raise BadRow("question is null or not text")
    better, worse = _answers(value) or _PAIRS[0]
    history = [{"role": "user", "content": value["question"]}]
    return Preference(history, value.get(better), value.get(worse))


PLUGIN = Format(
    name="question",
    help="a question, the answers under response_j (better) and response_k, or chosen and rejected",
    matches=matches,
    parse=parse,
    example={"question": "Why?", "response_j": "So.", "response_k": "No."},
    more_columns=("chosen", "rejected"),
)
