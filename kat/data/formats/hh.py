"""The format of Anthropic's HH-RLHF: two full conversations as text, the history inside both."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import HH_TURN, Preference, parse_hh, preference_of
from kat.data.formats import Format


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds two texts, one of them (the other may be damaged) HH text, and no prompt beside them."""
    if isinstance(value.get("prefix"), dict) or "prompt" in value:
        return False
    chosen, rejected = value.get("chosen"), value.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return False
    return bool(HH_TURN.match(chosen) or HH_TURN.match(rejected))


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    return preference_of(
        parse_hh(value.get("chosen"), "chosen"), parse_hh(value.get("rejected"), "rejected"), last_turn=True
    )


PLUGIN = Format(
    name="hh",
    help="HH text, the prompt inside both",
    matches=matches,
    parse=parse,
    example={"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
)
