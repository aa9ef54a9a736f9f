"""Conversations as rows of preference files hold them: lists of messages, HH text, and what is taken from either.

The formats (`kat.data.formats`) build on these; so do the rows to embed (`kat.data.prompts`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from kat.data.media import MEDIA, holds_media
from kat.data.nesting import TOO_DEEP, from_json, nests_too_deep
from kat.data.repeated_keys import refuse_repeated_key
from kat.data.rows import BadRow
from kat.records import Message, canonical_json

# A turn of HH text starts with a blank line; the bare words also stand inside answers.
HH_TURN = re.compile(r"\n\n(Human|Assistant):(?: |\Z)")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}

_PLAIN_ROLES = frozenset({"user", "assistant", "system", "tool"})
ROLES = {name: name for name in _PLAIN_ROLES} | {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
}
"""Roles by what sources call them, in whatever case; others stay as they are."""
_CALLS = ("tool_calls", "function_call")


class Preference(NamedTuple):
    """What a row says. `history` may still end on assistant turns; `chosen` and `rejected` are completions.

    A completion is text, a message or a list of messages as the row has it. `kat.data.formats.parse_row` makes lists of
    messages of both, and makes sure that they say something; before that a row's own value stands here.
    """

    history: list[Message]
    chosen: Any
    rejected: Any


def messages_of(value: Any, where: str) -> list[Message]:
    """Return a list of {"role", "content"} and what else each message holds; a message alone is a list of one.

    ShareGPT's from/value and other names of roles become role/content; a content of text parts is their text joined;
    keys that hold null are left out, for columns of parquet hold every key. Raises BadRow for anything else, a content
    that is null beside no call among it, and a part that is no text.
    """
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise BadRow(f"{where} is null or no list of messages")
    messages = []
    for message in value:
        # Nearly every message is a plain one, and is taken as it is.
        if (
            isinstance(message, dict)
            and len(message) == 2
            and isinstance(message.get("content"), str)
            and isinstance(role := message.get("role"), str)
            and role in _PLAIN_ROLES
        ):
            messages.append(message)
        else:
            messages.append(_message(message, where))
    return messages


def prefix_messages(prefix: dict[str, Any]) -> list[Message]:
    """Return the messages of a prefix. Raises BadRow as `messages_of`, and for a picture or its like beside them."""
    for name, beside in prefix.items():
        if beside and name not in ("messages", "tools") and (name in MEDIA or holds_media(beside)):
            raise BadRow(f"prefix holds {name}, which text cannot carry (--drop_columns {name})")
    return messages_of(prefix.get("messages"), "prefix")


def _message(message: Any, where: str) -> Message:
    if isinstance(message, dict) and not isinstance(message.get("role"), str) and isinstance(message.get("from"), str):
        message = _from_sharegpt(message)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRow(f"{where} holds a message without a role")
    role = ROLES.get(message["role"].lower(), message["role"])
    content = message.get("content")
    if isinstance(content, list):
        content = _text_of_parts(content, where)
    silent = content is None and role != "user" and any(message.get(name) for name in _CALLS)
    if not isinstance(content, str) and not silent:
        raise BadRow(f"{where} holds a message whose content is null or not text")
    rest = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
    if rest and nests_too_deep(rest):
        raise BadRow(f"{where} holds a message with {TOO_DEEP}")
    for name in MEDIA.keys() & rest.keys():
        if rest[name]:
            raise BadRow(f"{where} holds a message with {name}, which text cannot carry (--drop_columns {name})")
    return {"role": role, "content": content, **rest}


def _from_sharegpt(message: dict[str, Any]) -> dict[str, Any]:
    """Return a from/value message as role/content; a turn "function_call", whose value is JSON, as a call."""
    rest = {k: v for k, v in message.items() if k not in ("from", "value", "role", "content")}
    role, value = message["from"], message.get("value")
    if role == "function_call" and isinstance(value, str):
        try:
            called = from_json(value)
        except ValueError:
            return {"role": "assistant", "content": value, **rest}
        refuse_repeated_key(value.encode(), called, "function_call")
        calls = [{"type": "function", "function": each} for each in (called if isinstance(called, list) else [called])]
        return {"role": "assistant", "content": None, "tool_calls": calls, **rest}
    return {"role": role, "content": value, **rest}


def _text_of_parts(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(kind, str) and kind in MEDIA:
            raise BadRow(f"{where} holds a part of type {kind}, which text cannot carry (--drop_columns {kind})")
        if not isinstance(text, str):
            raise BadRow(f"{where} holds a message whose content is null or not text")
        texts.append(text)
    return "".join(texts)


def message_parts(message: Message) -> tuple[str, ...]:
    """Return all that a message says, as texts, equal for equal messages: role, content, and the rest if any."""
    role, content = message["role"], message.get("content") or ""
    if len(message) == 2:
        return role, content
    rest = {k: v for k, v in message.items() if k not in ("role", "content")}
    return (role, content, canonical_json(rest)) if rest else (role, content)


def is_message(value: Any) -> bool:
    """Tell whether a value is a message: a role or from, and a content, value or calls."""
    if not isinstance(value, dict):
        return False
    return any(k in value for k in ("role", "from")) and any(k in value for k in ("content", "value", *_CALLS))


def as_list(value: Any) -> Any:
    """Return a message alone as a list of one, and anything else as it is."""
    return [value] if is_message(value) else value


def holds_user(chosen: list[Any], rejected: list[Any]) -> bool:
    """Tell whether one of two lists holds a user turn; items that are no messages are passed over."""
    return any(_role_of(m) == "user" for m in [*chosen, *rejected])


def _role_of(message: Any) -> str | None:
    role = message.get("role", message.get("from")) if isinstance(message, dict) else None
    return ROLES.get(role.lower(), role) if isinstance(role, str) else None


def whole_conversations(value: dict[str, Any]) -> bool:
    """Tell whether `chosen` and `rejected` hold their conversation themselves: lists with a user turn, or HH text."""
    chosen, rejected = value.get("chosen"), value.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return holds_user(chosen, rejected)
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return False
    return bool(HH_TURN.match(chosen) or HH_TURN.match(rejected))


def has_completions(value: dict[str, Any]) -> bool:
    """Tell whether a row's `chosen` or `rejected` is text, or both are messages."""
    chosen, rejected = value.get("chosen"), value.get("rejected")
    if isinstance(chosen, str) or isinstance(rejected, str):
        return True
    return isinstance(as_list(chosen), list) and isinstance(as_list(rejected), list)


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


def preference_of(chosen: list[Message], rejected: list[Message], *, last_turn: bool = False) -> Preference:
    """Return what two full conversations say: the turns that they share are the history.

    What follows must be the assistant's, and its tools': one turn each, or several; `last_turn` says that it is one.
    Raises BadRow if a conversation does not end with an assistant turn, or if the histories differ.
    """
    for messages, where in ((chosen, "chosen"), (rejected, "rejected")):
        if not messages or messages[-1]["role"] != "assistant":
            raise BadRow(f"{where} does not end with an assistant turn")
    if last_turn and len(chosen) != len(rejected):
        raise BadRow("histories of chosen and rejected differ")
    shortest = min(len(chosen), len(rejected)) - 1  # the last turn is a completion, also where both say the same
    shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    ends = chosen[shared:], rejected[shared:]
    foreign = any(m["role"] in ("user", "system") for m in [*ends[0], *ends[1]])
    if (last_turn and shared < shortest) or foreign or any(end[0]["role"] != "assistant" for end in ends):
        raise BadRow("histories of chosen and rejected differ")
    return Preference(chosen[:shared], *ends)


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
