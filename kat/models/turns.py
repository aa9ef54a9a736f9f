"""Conversations in the forms that templates accept: strict turns, calls as text, parts as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kat.errors import InputError
from kat.records import Message

_NAMES = {"user": "User", "assistant": "Assistant", "system": "", "tool": "Tool"}
_PARTS = ("text", "python", "python_output")
"""What a part may be of which the words can be written: plain text, and nanochat's tool."""


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Return the same conversation in turns of user and assistant, user first, for templates that insist on it.

    A system message goes into the user turn that follows, as do tools' results; turns of one role in a row become one,
    an empty line between them; a conversation that starts with the assistant gets an empty user turn before it. Calls
    are written as text. Raises InputError for parts that are no text.
    """
    turns: list[Message] = []
    for message in map(with_calls_as_text, messages):
        role = "assistant" if message["role"] == "assistant" else "user"
        content = message["content"]
        if role == "user":
            content = text_of(content)
        if message["role"] == "tool" and message.get("name"):
            content = f"{message['name']}: {content}"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": _joined(turns[-1]["content"], content)}
        else:
            turns.append({"role": role, "content": content})
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": ""})
    return turns


def with_calls_as_text(message: Message) -> Message:
    """Return a message whose calls stand in its content, a line of JSON each, with "" for a content that is None."""
    calls = [json.dumps(_called(call), ensure_ascii=False) for call in message.get("tool_calls") or []]
    content = message.get("content")
    content = "" if content is None else content
    if calls:
        content = _joined(content, "\n".join(calls), "\n") if content else "\n".join(calls)
    return {name: value for name, value in message.items() if name != "tool_calls"} | {"content": content}


def text_of(content: Any) -> str:
    """Return the words of a content: text, None or parts. Raises InputError for a part that is no text."""
    if content is None or isinstance(content, str):
        return content or ""
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict) or part.get("type") not in _PARTS or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InputError(f"A message holds a part of type {kind!r}; this model reads text. Leave such rows out.")
    return "".join(part["text"] for part in content)


def plain_turn(message: Message) -> str:
    """Return a message as `Role: text`, or `Role (name): text`; a system message is its text alone."""
    message = with_calls_as_text(message)
    role = _NAMES.get(message["role"], message["role"].capitalize())
    name = f"{role} ({message['name']})" if role and message.get("name") else role
    return f"{name}: {text_of(message['content'])}" if name else text_of(message["content"])


def _called(call: Any) -> Any:
    """A call without its wrapping: the function's name and arguments, which are an object where they can be read."""
    called = call.get("function", call) if isinstance(call, dict) else call
    if isinstance(called, dict) and isinstance(called.get("arguments"), str):
        try:
            return {**called, "arguments": json.loads(called["arguments"])}
        except ValueError:
            return called
    return called


def _joined(first: Any, second: Any, between: str = "\n\n") -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}{between}{second}"
    parts = [[{"type": "text", "text": c}] if isinstance(c, str) else list(c) for c in (first, between, second)]
    return [part for some in parts for part in some]
