"""The tool calls of a message, for trainers that keep them in formats of their own."""

from __future__ import annotations

import json
from typing import Any

from kat.records import Message

CALLS = ("tool_calls", "function_call")
"""The keys of a message that hold calls: a list of today's, or one of the older."""


def calls_of(message: Message) -> list[dict[str, Any]] | None:
    """Return the calls of a message as `{"name", "arguments"}`, its arguments as values; None if one has no name.

    Arguments that are text are read as JSON where they are that.
    """
    held: Any = next((message[name] for name in CALLS if message.get(name)), [])
    calls = []
    for call in held if isinstance(held, list) else [held]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return None
        calls.append({"name": function["name"], "arguments": _value(function.get("arguments"))})
    return calls


def _value(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def as_json(value: Any) -> str:
    """Return a value as JSON, its characters as they are."""
    return json.dumps(value, ensure_ascii=False)
