"""Rows to embed: JSON lines with an id and either a `prefix` (a conversation) or a `prompt` (a string)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kat.data.openings import opening_id
from kat.data.rows import BadRow, BadRows, read_rows
from kat.data.schemas import messages_of, opening_of, row_id
from kat.errors import DuplicateIdError, InputError
from kat.records import Prefix


@dataclass(frozen=True)
class Items:
    """The items of a file in its order; a prompt is a prefix of one user message. Ids are unique."""

    prefixes: list[Prefix]
    bad: int = 0
    made_ids: int = 0
    ids: list[str] = field(default_factory=list)


def read_items(path: str | Path, max_bad_rows: int | str = 0, sink: Callable[[bytes], object] | None = None) -> Items:
    """Read a whole file of items.

    Raises DuplicateIdError if one id stands for two openings, BadRowsError for more bad rows than allowed (a second
    row of one id and opening is one), and InputError if no item is left.
    """
    path = Path(path)
    bad = BadRows(path, max_bad_rows, sink)
    found: dict[str, tuple[int, Prefix]] = {}
    made = 0
    for row in read_rows(path):
        try:
            if row.value is None:
                raise BadRow(row.fault or "not a JSON object")
            item = item_of(row.value)
            if first := found.get(item.id):
                _reject_other_opening(path, row.number, item, *first)
                raise BadRow("repeats the id and opening of an earlier row")
        except BadRow as fault:
            bad.add(row, fault.reason)
            continue
        found[item.id] = (row.number, item)
        made += row.value.get("id") is None
    bad.check()
    if not found:
        raise InputError(f'{path} holds no rows; expected lines of {{"id", "prefix"}} or {{"id", "prompt"}}.')
    return Items([item for _, item in found.values()], bad.total, made, list(found))


def item_of(value: Any) -> Prefix:
    """One row's prefix; without an id it gets its opening's. Raises BadRow."""
    if not isinstance(value, dict):
        raise BadRow("not a JSON object")
    if isinstance(value.get("prefix"), dict):
        messages = messages_of(value["prefix"].get("messages"), "prefix")
    elif isinstance(value.get("prompt"), str):
        messages = [{"role": "user", "content": value["prompt"]}]
    else:
        raise BadRow("neither a prefix (a conversation) nor a prompt (a string)")
    opening = opening_of(messages)
    return Prefix(row_id(value) or opening_id(opening), messages)


def _reject_other_opening(path: Path, number: int, item: Prefix, first_number: int, first: Prefix) -> None:
    if opening_id(item.opening) != opening_id(first.opening):
        raise DuplicateIdError(
            f"{path}: lines {first_number} and {number} share the id {item.id} but not the opening. "
            "Give one of them another id, or leave ids out to have them computed."
        )
