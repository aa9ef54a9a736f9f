"""TRL's format with an explicit prompt: text or messages, and so the completions."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import HH_TURN, Preference, as_list, holds_user, is_message, messages_of, preference_of
from kat.data.formats import Format


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds a prompt of messages; or one of plain text with completions that do not repeat it.

    Text is a prompt beside completions of text unless it is HH text (`hh-prompt`), and beside completions of messages
    unless these hold a user turn, which makes them full conversations (`ultrafeedback`).
    """
    prompt, chosen, rejected = value.get("prompt"), as_list(value.get("chosen")), as_list(value.get("rejected"))
    if isinstance(value.get("prefix"), dict):
        return False
    if not isinstance(prompt, str):
        return isinstance(prompt, list) or is_message(prompt)
    if isinstance(chosen, str) or isinstance(rejected, str):
        return not HH_TURN.match(prompt)
    return isinstance(chosen, list) and isinstance(rejected, list) and not holds_user(chosen, rejected)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    prompt, chosen, rejected = value.get("prompt"), as_list(value.get("chosen")), as_list(value.get("rejected"))
    history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt")
    both_messages = isinstance(chosen, list) and isinstance(rejected, list)
    if not both_messages or not holds_user(chosen, rejected):
        return Preference(history, chosen, rejected)
    # Completions with user turns in them share these: they belong to the context.
    return preference_of(history + messages_of(chosen, "chosen"), history + messages_of(rejected, "rejected"))


PLUGIN = Format(
    name="trl-explicit",
    help="the prompt as text or messages, the completions as text or messages",
    matches=matches,
    parse=parse,
    example={"prompt": "Why?", "chosen": "So.", "rejected": "No."},
)
