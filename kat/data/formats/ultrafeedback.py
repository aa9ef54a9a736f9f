"""The format of UltraFeedback (binarized): two full conversations as messages, and the prompt once more as text."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, holds_user, messages_of, preference_of
from kat.data.formats import Format
from kat.data.rows import BadRow


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds a prompt of text and two lists of messages, with a user turn among these."""
    chosen, rejected = value.get("chosen"), value.get("rejected")
    if isinstance(value.get("prefix"), dict) or not isinstance(value.get("prompt"), str):
        return False
    return isinstance(chosen, list) and isinstance(rejected, list) and holds_user(chosen, rejected)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`. A prompt that is no user turn of the conversation is a BadRow."""
    chosen, rejected = messages_of(value.get("chosen"), "chosen"), messages_of(value.get("rejected"), "rejected")
    preference = preference_of(chosen, rejected)
    user_turns = [m["content"].strip() for m in preference.history if m["role"] == "user"]
    if not isinstance(value["prompt"], str) or value["prompt"].strip() not in user_turns:
        raise BadRow("prompt is no user turn of the conversation")
    return preference


PLUGIN = Format(
    name="ultrafeedback",
    help="messages, the prompt inside both and once more as text; scores if there are any",
    matches=matches,
    parse=parse,
    example={
        "prompt": "Why?",
        "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
        "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
)
