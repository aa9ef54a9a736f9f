"""HH text split in two: the turns before the completions under `prompt`, the completions as they are."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import HH_TURN, Preference, parse_hh
from kat.data.formats import Format


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds a prompt of HH text, and text (the other may be missing) as a completion."""
    prompt = value.get("prompt")
    if isinstance(value.get("prefix"), dict) or not isinstance(prompt, str) or not HH_TURN.match(prompt):
        return False
    return isinstance(value.get("chosen"), str) or isinstance(value.get("rejected"), str)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    history = parse_hh(value["prompt"], "prompt")
    if history and history[-1] == {"role": "assistant", "content": ""}:
        history.pop()  # the cue "\n\nAssistant:" that asks for the completion
    return Preference(history, value.get("chosen"), value.get("rejected"))


PLUGIN = Format(
    name="hh-prompt",
    help="HH text as prompt, the completions as text",
    matches=matches,
    parse=parse,
    example={"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "So.", "rejected": "No."},
)
