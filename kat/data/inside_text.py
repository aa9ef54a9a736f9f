"""Conversations inside a text: as a template wrote them, as JSON, or a completion that repeats its prompt.

Such a row reads as one prompt of text, and its markers would be embedded and trained on. What nearly all of the first
rows show is a file's way of writing; what a few show may be what they talk about, and is left as it is and said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kat.data.conversations import HH_TURN, ROLES, is_message
from kat.data.nesting import from_json
from kat.data.repeated_keys import refuse_repeated_key
from kat.records import Message

SHARE = 0.95
"""The share of the first rows that must show it."""
_SIDES = ("prompt", "chosen", "rejected")
_JSON_COLUMNS = (*_SIDES, "messages", "rejected_messages", "conversations", "prefix")


@dataclass(frozen=True, slots=True)
class Inside:
    """One way of hiding a conversation: `shows` tells a row that does, and `rewrite` returns it with messages.

    `check` raises BadRow for a row that shows it, and that `rewrite` would take something from.
    """

    name: str
    shows: Callable[[dict[str, Any]], bool]
    rewrite: Callable[[dict[str, Any]], dict[str, Any]]
    check: Callable[[dict[str, Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a template marks turns: `turn` matches where one begins (its group is the role), `end` what closes one."""

    turn: re.Pattern[str]
    end: re.Pattern[str]

    def parse(self, text: str) -> list[Message] | None:
        """Return the turns of a text that is nothing but turns, the cue for the next one left out; else None."""
        parts = self.turn.split(text)
        if len(parts) < 3 or parts[0].strip():
            return None
        turns = []
        for role, content in zip(parts[1::2], parts[2::2], strict=True):
            turns.append({"role": ROLES.get(role.lower(), role), "content": self.end.sub("", content)})
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns.pop()  # the cue that asks for the completion
        return turns

    def completion(self, text: str) -> str | list[Message]:
        """Return a completion without its markers; as messages if it holds turns."""
        turns = self.parse(text)
        if turns is None:
            return self.end.sub("", text)
        return turns[0]["content"] if len(turns) == 1 and turns[0]["role"] == "assistant" else turns


_DIALECTS = {
    # The blank line before the first turn is what such files lack; with it a row is of the formats hh and hh-prompt.
    "HH text": _Dialect(re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):(?: |\Z|(?=\n))"), re.compile(r"\Z(?!)")),
    "User: / Assistant: text": _Dialect(
        re.compile(r"(?:\A\s*|\n+)(System|User|Assistant):(?: |\Z|(?=\n))"), re.compile(r"\Z(?!)")
    ),
    "### Human: / ### Assistant: text": _Dialect(
        re.compile(r"(?:\A|\n*\s)### ?(System|Human|User|Assistant):(?: |\Z|(?=\n))"), re.compile(r"\Z(?!)")
    ),
    "ChatML": _Dialect(
        re.compile(r"<\|im_start\|>(\w+)(?:\n|\Z)"), re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>)\s*\Z")
    ),
    "Llama 3's template": _Dialect(
        re.compile(r"(?:<\|begin_of_text\|>)?<\|start_header_id\|>(\w+)<\|end_header_id\|>(?:\n\n|\n?\Z)"),
        re.compile(r"(?:<\|eot_id\|>|<\|end_of_text\|>)\s*\Z"),
    ),
    "Gemma's template": _Dialect(
        re.compile(r"(?:<bos>)?<start_of_turn>(\w+)(?:\n|\Z)"), re.compile(r"(?:<end_of_turn>|<eos>)\s*\Z")
    ),
    "Zephyr's template": _Dialect(
        re.compile(r"<\|(system|user|assistant)\|>(?:\n|\Z)"), re.compile(r"(?:</s>|<\|endoftext\|>)\s*\Z")
    ),
}


def _shows_dialect(dialect: _Dialect, value: dict[str, Any]) -> bool:
    if "prompt" in value:
        prompt = value["prompt"]
        if not isinstance(prompt, str) or HH_TURN.match(prompt):
            return False
        turns = dialect.parse(prompt)
        return bool(turns) and any(m["role"] == "user" for m in turns or ())
    texts = value.get("chosen"), value.get("rejected")
    if not all(isinstance(text, str) and not HH_TURN.match(text) for text in texts):
        return False
    return all(len(dialect.parse(str(text)) or ()) > 1 for text in texts)


def _rewrite_dialect(dialect: _Dialect, value: dict[str, Any]) -> dict[str, Any]:
    value = dict(value)
    if isinstance(value.get("prompt"), str):
        value["prompt"] = dialect.parse(value["prompt"]) or value["prompt"]
    for side in ("chosen", "rejected"):
        if isinstance(value.get(side), str):
            value[side] = dialect.completion(value[side])
    return value


def _from_json(text: Any) -> list[Any] | dict[str, Any] | None:
    """The messages, or one message, that a text is the JSON of; else None."""
    if not isinstance(text, str) or text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value = from_json(text)
    except ValueError:
        return None
    if isinstance(value, dict) and (is_message(value) or isinstance(value.get("messages"), list)):
        return value
    return value if isinstance(value, list) and value and all(map(is_message, value)) else None


def _shows_json(value: dict[str, Any]) -> bool:
    return any(_from_json(value.get(name)) is not None for name in _JSON_COLUMNS)


def _rewrite_json(value: dict[str, Any]) -> dict[str, Any]:
    conversations = {name: _from_json(value.get(name)) for name in _JSON_COLUMNS}
    return value | {name: messages for name, messages in conversations.items() if messages is not None}


def _check_json(value: dict[str, Any]) -> None:
    for name in _JSON_COLUMNS:
        if (conversation := _from_json(value.get(name))) is not None:
            refuse_repeated_key(value[name].encode(), conversation, name)


def _repeats_prompt(value: dict[str, Any]) -> bool:
    prompt = value.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        return False
    if isinstance(prompt, str) and HH_TURN.match(prompt):
        return False
    sides = [value.get("chosen"), value.get("rejected")]
    return all(
        isinstance(side, type(prompt)) and len(side) > len(prompt) and side[: len(prompt)] == prompt for side in sides
    )


def _without_prompt(value: dict[str, Any]) -> dict[str, Any]:
    size = len(value["prompt"])
    return value | {side: value[side][size:] for side in ("chosen", "rejected")}


WAYS = (
    Inside("JSON inside a text", _shows_json, _rewrite_json, _check_json),
    Inside("chosen and rejected repeat the prompt", _repeats_prompt, _without_prompt),
    *(
        Inside(f"{name} inside a text", partial(_shows_dialect, dialect), partial(_rewrite_dialect, dialect))
        for name, dialect in _DIALECTS.items()
    ),
)
"""In the order in which they are looked for: what one takes off may show the next."""


def recognise(
    rows: list[dict[str, Any]], known: Sequence[Inside] = WAYS
) -> tuple[list[Inside], list[dict[str, Any]], dict[str, int], dict[str, int]]:
    """Return the ways that nearly all rows show, the rows rewritten, and how many showed each way, taken and left."""
    ways, taken, left = [], {}, {}
    for way in known:
        shown = [way.shows(row) for row in rows]
        count = sum(shown)
        if count and count >= SHARE * len(rows):
            ways.append(way)
            taken[way.name] = count
            rows = [way.rewrite(row) if shows else row for row, shows in zip(rows, shown, strict=True)]
        elif count:
            left[way.name] = count
    return ways, rows, taken, left


def notes_of(taken: Mapping[str, int], left: Mapping[str, int], rows: int) -> list[str]:
    """Return in words which ways were found in the first rows, and whether they are read as messages."""
    notes = []
    for counts, verdict in ((taken, "read as messages"), (left, "left as it is")):
        notes += [f"{name}: {verdict} ({n:,} of the first {rows:,} rows)" for name, n in counts.items()]
    return notes
