"""The format of Anthropic's HH-RLHF: two full conversations as text, the history inside both."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import HH_TURN, Preference, parse_hh, preference_of
from kat.data.formats import Format


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds two texts, one of them (the other may be damaged) HH text, and no prompt beside them."""
    if isinstance(value.get("prefix"), dict) or "prompt" in value:
        return False
    texts = value.get("chosen"), value.get("rejected")
    return all(isinstance(text, str) for text in texts) and any(HH_TURN.match(text) for text in texts)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    return preference_of(parse_hh(value.get("chosen"), "chosen"), parse_hh(value.get("rejected"), "rejected"))


PLUGIN = Format(
    name="hh",
    help="HH text, the prompt inside both",
    matches=matches,
    parse=parse,
    example={"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
)
