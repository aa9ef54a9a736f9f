"""Alpaca's format with two answers: an instruction and its input; `chosen` and `rejected`, or an `output` of both."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, has_completions, whole_conversations
from kat.data.formats import Format, context_column, earlier_turns
from kat.data.rows import BadRow


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds an instruction, and two answers to it."""
    if context_column(value) != "instruction" or whole_conversations(value):
        return False
    return has_completions(value) or ("chosen" not in value and isinstance(value.get("output"), list))


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`. The input follows the instruction on a line of its own."""
    instruction, more = value["instruction"], value.get("input")
    if not isinstance(instruction, str) or not isinstance(more, str | None):
        raise BadRow("instruction or input is null or not text")
    history = [*earlier_turns(value), {"role": "user", "content": f"{instruction}\n{more}" if more else instruction}]
    if has_completions(value):
        return Preference(history, value.get("chosen"), value.get("rejected"))
    output = value.get("output")
    if not isinstance(output, list) or len(output) != 2:
        raise BadRow("output is no list of two, the chosen one first")
    return Preference(history, *output)


PLUGIN = Format(
    name="alpaca",
    help="instruction and input, with chosen and rejected or an output of both, the chosen one first",
    matches=matches,
    parse=parse,
    example={"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No."},
    more_columns=("output", "history"),
)
