"""kat's own format: a conversation under `prefix`, and two completions as text."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, prefix_messages
from kat.data.formats import Format


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds a prefix. No other format has one, so nothing else is looked at."""
    return isinstance(value.get("prefix"), dict)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    history = prefix_messages(value["prefix"])
    return Preference(history, value.get("chosen"), value.get("rejected"))


PLUGIN = Format(
    name="kat",
    help="the conversation under prefix, the completions as text",
    matches=matches,
    parse=parse,
    example={"prefix": {"messages": [{"role": "user", "content": "Why?"}]}, "chosen": "So.", "rejected": "No."},
)
