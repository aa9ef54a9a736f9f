"""Completions to reward: rows with a prompt and one completion, or a list of them, without a preference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kat.config import MAX_LINE_BYTES
from kat.data.columns import SYSTEM, tools_of, with_system
from kat.data.conversations import messages_of, opening_of, prefix_messages, row_id, trim
from kat.data.media import MEDIA, holds_media
from kat.data.needed import needed_among
from kat.data.openings import opening_id
from kat.data.rows import BadRow, BadRows, read_rows
from kat.errors import InputError
from kat.inputs import Inputs, input_text
from kat.records import Message

COLUMNS = ("completions", "completion", "responses", "response")
"""Columns that hold them, the first that a row has."""


_OF_TEXT = frozenset({"id", "prefix", "prompt", "tools", *COLUMNS, *SYSTEM})
"""Columns whose pictures, if they hold any, are found where they are read."""


@dataclass(frozen=True)
class Asked:
    """A context and its completions, as turns. `listed` says that the row holds a list of them, however short."""

    id: str
    context: list[Message]
    completions: list[list[Message]]
    listed: bool
    opening_id: str
    tools: list[dict[str, Any]] | None
    row: int


def hold_completions(path: Inputs, max_line_bytes: int = MAX_LINE_BYTES) -> bool:
    """Tell whether the first row of an input that is an object is one of completions, and no preference."""
    for row in read_rows(path, max_line_bytes):
        if row.value is not None:
            return "chosen" not in row.value and any(name in row.value for name in COLUMNS)
    return False


class CompletionReader(Iterator[Asked]):
    """Iterate over the rows of an input. `bad` counts those that cannot be used, complete at the end.

    Raises BadRowsError at the end for more bad rows than `max_bad_rows`, InputError if none can be used.
    """

    def __init__(
        self,
        path: Inputs,
        max_bad_rows: int | str = 0,
        sink: Callable[[bytes], object] | None = None,
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._path = path
        self._bad_rows = BadRows(path, max_bad_rows, sink)
        self._most = max_line_bytes
        self._rows = self._read()

    def __next__(self) -> Asked:
        return next(self._rows)

    @property
    def bad(self) -> int:
        """Return how many rows were bad."""
        return self._bad_rows.total

    def _read(self) -> Iterator[Asked]:
        taken: set[str] = set()
        for row in read_rows(self._path, self._most, needed_among(_OF_TEXT)):
            try:
                if row.value is None:
                    raise BadRow(row.fault or "not a JSON object")
                asked = _asked(row.value, row.number)
                if asked.id in taken:
                    raise BadRow("an id that stood before")
            except BadRow as bad:
                self._bad_rows.add(row, bad.reason)
                continue
            taken.add(asked.id)
            yield asked
        self._bad_rows.check(len(taken))
        if not taken:
            raise InputError(f"{input_text(self._path)} holds no row with a prompt and a completion.")


def _asked(value: dict[str, Any], number: int) -> Asked:
    for column, beside in value.items():
        if beside and column not in _OF_TEXT and (column in MEDIA or holds_media(beside)):
            raise BadRow(f"column {column} belongs to the prompt and cannot be carried: leave it out of the file")
    context = _context(value)
    name = next((name for name in COLUMNS if value.get(name) is not None), None)
    if name is None:
        raise BadRow("no completion")
    given = value[name]
    # A list of messages is one completion of several turns; a list of anything else is several completions.
    listed = isinstance(given, list) and not all(isinstance(one, dict) for one in given)
    listed = listed or (isinstance(given, list) and name in ("completions", "responses"))
    each = given if listed else [given]
    if not each:
        raise BadRow("no completion")
    return Asked(
        id=row_id(value) or str(number),
        context=context,
        completions=[_turns(one, name) for one in each],
        listed=listed,
        opening_id=opening_id(opening_of(trim(context))),
        tools=tools_of(value),
        row=number,
    )


def _context(value: dict[str, Any]) -> list[Message]:
    if isinstance(value.get("prefix"), dict):
        return prefix_messages(value["prefix"])
    prompt = value.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return with_system(value, SYSTEM, [{"role": "user", "content": prompt}])
    if isinstance(prompt, list | dict):
        return with_system(value, SYSTEM, messages_of(prompt, "prompt"))
    raise BadRow("neither a prefix (a conversation) nor a prompt (text or a list of messages)")


def _turns(completion: Any, where: str) -> list[Message]:
    turns = (
        [{"role": "assistant", "content": completion}]
        if isinstance(completion, str)
        else messages_of(completion, where)
    )
    if not any(turn.get("content") or turn.get("tool_calls") or turn.get("function_call") for turn in turns):
        raise BadRow("an empty completion")
    return turns
