"""Conversations as rows of preference files hold them: lists of messages, HH text, and what is taken from either.

The formats (`kat.data.formats`) build on these; so do the rows to embed (`kat.data.prompts`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from kat.data.rows import BadRow
from kat.records import Message

# A turn of HH text starts with a blank line; the bare words also stand inside answers.
HH_TURN = re.compile(r"\n\n(Human|Assistant):(?: |\Z)")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class Preference(NamedTuple):
    """What a row says. `history` may still end on assistant turns; `chosen` and `rejected` are completions.

    `kat.data.formats.parse_row` makes sure that both completions are text; before that a row's own value stands here.
    """

    history: list[Message]
    chosen: Any
    rejected: Any


def messages_of(value: Any, where: str) -> list[Message]:
    """Return a list of {"role", "content"}, other keys left behind. Raises BadRow if `value` is anything else."""
    if not isinstance(value, list):
        raise BadRow(f"{where} is null or no list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"{where} holds a message without a role")
        content = message.get("content")
        if not isinstance(content, str):
            raise BadRow(f"{where} holds a message whose content is null or not text")
        messages.append({"role": message["role"], "content": content})
    return messages


def holds_user(chosen: list[Any], rejected: list[Any]) -> bool:
    """Tell whether one of two lists holds a user turn; items that are no messages are passed over."""
    return any(isinstance(m, dict) and m.get("role") == "user" for m in [*chosen, *rejected])


def parse_hh(text: Any, where: str) -> list[Message]:
    """Split HH text into its turns. Raises BadRow unless it starts with one."""
    if not isinstance(text, str):
        raise BadRow(f"{where} is null or not text")
    if not text.strip():
        raise BadRow(f"{where} is empty")
    parts = HH_TURN.split(text)
    if parts[0]:
        raise BadRow(f"{where} does not start with a turn (\\n\\nHuman: or \\n\\nAssistant: )")
    return [{"role": _HH_ROLES[r], "content": c} for r, c in zip(parts[1::2], parts[2::2], strict=True)]


def preference_of(chosen: list[Message], rejected: list[Message]) -> Preference:
    """Return what two full conversations say that differ in their last turn alone.

    Raises BadRow if one does not end with an assistant turn, or if the turns before it differ.
    """
    history, better = _split(chosen, "chosen")
    other_history, worse = _split(rejected, "rejected")
    if history != other_history:
        raise BadRow("histories of chosen and rejected differ")
    return Preference(history, better, worse)


def _split(messages: list[Message], where: str) -> tuple[list[Message], str]:
    """A full conversation as its history and its completion, the last assistant turn."""
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow(f"{where} does not end with an assistant turn")
    return messages[:-1], messages[-1]["content"]


def trim(history: list[Message]) -> list[Message]:
    """Return a conversation up to its last user message. Raises BadRow if it has none."""
    for end in range(len(history), 0, -1):
        if history[end - 1]["role"] == "user":
            return history[:end]
    raise BadRow('no user message (a role "user" is expected)')


def opening_of(messages: list[Message]) -> str:
    """Return the first user message. Raises BadRow if there is none or it is white space."""
    opening = next((m["content"] for m in messages if m["role"] == "user"), None)
    if opening is None:
        raise BadRow('no user message (a role "user" is expected)')
    if not opening or opening.isspace():
        raise BadRow("the opening (first user message) is white space")
    return opening


def row_id(value: dict[str, Any]) -> str | None:
    """Return a row's own id as text, None if it has none.

    Raises BadRow for an id that is neither text nor a whole number.
    """
    given = value.get("id")
    if given is None:
        return None
    if isinstance(given, str) and given:
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise BadRow("id is neither text nor a whole number")
