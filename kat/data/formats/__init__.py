"""Formats of preference rows: one file a format, recognised by keys and types alone.

A format is a file of this folder with `PLUGIN = Format(...)` in it (see `kat.plugins`). What it does not say itself is
checked here, the same for all: completions that say something, no two the same, no ties.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kat.data.conversations import Preference, messages_of
from kat.data.rows import BadRow
from kat.data.scores import refuse_tie
from kat.plugins import FORMATS, load_all
from kat.records import Message, conversation_text


@dataclass(frozen=True, slots=True)
class Format:
    """One format of preference rows.

    `name` is what files, tables and messages call it (statistics on disk hold it), `help` what stands in its columns.
    `matches` tells a row of this format from those of every other, whatever else the row holds: the formats exclude
    each other, so that their order means nothing. `parse` takes a row apart, one that matches or one that lacks parts;
    it raises BadRow, or the KeyError, TypeError or AttributeError of a part that is missing or of another type.
    `example` is a row of the format, for messages and tests; columns that are read beside its own are `more_columns`.
    """

    name: str
    help: str
    matches: Callable[[dict[str, Any]], bool]
    parse: Callable[[dict[str, Any]], Preference]
    example: dict[str, Any]
    more_columns: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the format reads."""
        return (*self.example, *self.more_columns)


@cache  # asked for every row that is not of its file's format
def formats() -> tuple[Format, ...]:
    """Return all formats, in the order of their files' names."""
    return tuple(load_all(FORMATS).values())


def format_of(value: dict[str, Any]) -> Format | None:
    """Return the format of a row, None if it has none that is known."""
    return next((each for each in formats() if each.matches(value)), None)


def context_column(value: dict[str, Any]) -> str | None:
    """Return the column that holds a row's context: the first of those that formats know; None if it is in none."""
    if isinstance(value.get("prefix"), dict):
        return "prefix"
    if "prompt" in value:
        return "prompt"
    for name, kind in (("conversations", list), ("instruction", str), ("question", str), ("messages", list)):
        if isinstance(value.get(name), kind):
            return name
    return "query" if isinstance(value.get("query"), str) else None


def earlier_turns(value: dict[str, Any]) -> list[Message]:
    """Return the turns before the last in a column `history` of [question, answer] lists. Raises BadRow."""
    history = value.get("history") or []
    if not all(isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in history):
        raise BadRow("history is no list of [question, answer]")
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in history for role, text in zip(roles, turn, strict=True)]


def parse_row(value: dict[str, Any], row_format: Format) -> Preference:
    """Take one row apart, its completions as lists of messages.

    Raises BadRow: a part is missing, null or no text; histories differ; a tie; an empty or repeated completion. Raises
    KeyError, TypeError or AttributeError for a row that is not of the format.
    """
    preference = row_format.parse(value)
    refuse_tie(value)
    chosen, rejected = _completion(preference.chosen, "chosen"), _completion(preference.rejected, "rejected")
    if chosen == rejected:
        raise BadRow("chosen equals rejected")
    return Preference(preference.history, chosen, rejected)


def _completion(value: Any, name: str) -> list[Message]:
    if isinstance(value, str):
        if not value or value.isspace():
            raise BadRow(f"{name} is empty")
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, list | dict):
        raise BadRow(f"{name} is null or not text")
    messages = messages_of(value, name)
    text = conversation_text(messages)
    if not text or text.isspace():
        raise BadRow(f"{name} is empty")
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"{name} does not end with an assistant turn")
    if any(m["role"] in ("user", "system") for m in messages):
        raise BadRow(f"{name} holds a turn that is not the assistant's")
    return messages


def expected_formats(*, in_memory: bool = False) -> list[str]:
    """Return the last lines of a message about rows of no known format: formats, examples, and what else to do."""
    if in_memory:
        columns = "columns='prompt=THEIRS,chosen=THEIRS,rejected=THEIRS'"
        return [f"  name columns that are called otherwise: kat.config.ReadOptions({columns})", *_expected()]
    lines = ["  name columns that are called otherwise: --columns prompt=THEIRS,chosen=THEIRS,rejected=THEIRS"]
    return [*lines, "  or convert:", *(f"    {line}" for line in _CONVERSION), *_expected()]


def _expected() -> list[str]:
    lines = ["  expected one of"]
    for each in formats():
        lines.append(f"    {each.name:<14} {each.help}")
        lines.append(f"    {'':<14} {json.dumps(each.example, ensure_ascii=False)}")
    return lines


_CONVERSION = (
    "import json",
    "rows = map(json.loads, open('OLD.jsonl'))",
    "new = [{'prompt': r['…'], 'chosen': r['…'], 'rejected': r['…']} for r in rows]",
    "open('NEW.jsonl', 'w').writelines(json.dumps(r) + '\\n' for r in new)",
)
