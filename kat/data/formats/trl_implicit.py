"""TRL's format without a prompt: two full conversations as messages, the history inside both."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, messages_of, preference_of, whole_conversations
from kat.data.formats import Format, context_column


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds two conversations and no prompt beside them."""
    if isinstance(value.get("prefix"), dict) or "prompt" in value:
        return False
    if not isinstance(value.get("chosen"), list) or not isinstance(value.get("rejected"), list):
        return False
    return whole_conversations(value) or context_column(value) in (None, "query")


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    return preference_of(messages_of(value.get("chosen"), "chosen"), messages_of(value.get("rejected"), "rejected"))


PLUGIN = Format(
    name="trl-implicit",
    help="messages, the prompt inside both",
    matches=matches,
    parse=parse,
    example={
        "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
        "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
    },
)
