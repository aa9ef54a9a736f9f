"""Rows to embed: JSON lines with an id and either a `prefix` (a conversation) or a `prompt` (a string)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from kat.data.formats import messages_of, opening_of, row_id
from kat.data.openings import opening_id
from kat.data.rows import BadRow, BadRows, read_rows
from kat.errors import DuplicateIdError, InputError
from kat.records import Prefix


class ItemFile:
    """The items of a file, checked once and then streamed in its order, as often as asked; their ids are unique.

    Holds 34 bytes a row, however long the texts. `bad` counts the rows left out, `made_ids` the items whose id was
    computed.

    Raises DuplicateIdError if one id stands for two openings, BadRowsError for more bad rows than allowed (a second
    row of one id and opening is one), and InputError if no item is left.
    """

    def __init__(self, path: str | Path, max_bad_rows: int | str = 0, sink: Callable[[bytes], object] | None = None):
        self.path = Path(path)
        bad = BadRows(self.path, max_bad_rows, sink)
        rows, made = _scan(self.path, bad)
        again = _repeats(self.path, rows)
        for row in read_rows(self.path) if len(again) else ():
            if row.number in again:
                bad.add(row, "repeats the id and opening of an earlier row")
        bad.check()
        self._numbers = np.asarray([n for n in rows["number"].tolist() if n not in again], np.int64)
        if not len(self):
            raise InputError(f'{self.path} holds no rows; expected lines of {{"id", "prefix"}} or {{"id", "prompt"}}.')
        self.bad, self.made_ids = bad.total, len(set(made) - again)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Prefix]:
        wanted = iter(self._numbers.tolist())
        number = next(wanted, None)
        for row in read_rows(self.path):
            if row.number == number:
                try:
                    yield item_of(row.value)
                except BadRow:
                    break
                number = next(wanted, None)
        if number is not None:
            raise InputError(f"{self.path}:{number} changed while the file was read. Start again.")


@dataclass(frozen=True)
class Items:
    """The items of a file in its order; a prompt is a prefix of one user message. Ids are unique."""

    prefixes: list[Prefix]
    bad: int = 0
    made_ids: int = 0
    ids: list[str] = field(default_factory=list)


def read_items(path: str | Path, max_bad_rows: int | str = 0, sink: Callable[[bytes], object] | None = None) -> Items:
    """Read a whole file of items into memory: see `ItemFile`, which streams them."""
    found = ItemFile(path, max_bad_rows, sink)
    prefixes = list(found)
    return Items(prefixes, found.bad, found.made_ids, [prefix.id for prefix in prefixes])


_ROW = np.dtype([("id", "S16"), ("opening", "S8"), ("number", np.int64)])


def _scan(path: Path, bad: BadRows) -> tuple[np.ndarray, array]:
    """Good rows as hashes of their ids and openings, and the numbers of those whose id was computed."""
    ids, openings, numbers, made = bytearray(), bytearray(), array("q"), array("q")
    for row in read_rows(path):
        try:
            if row.value is None:
                raise BadRow(row.fault or "not a JSON object")
            item = item_of(row.value)
        except BadRow as fault:
            bad.add(row, fault.reason)
            continue
        ids += blake2b(item.id.encode("utf-8"), digest_size=16).digest()
        openings += bytes.fromhex(opening_id(item.opening))
        numbers.append(row.number)
        if row.value.get("id") is None:
            made.append(row.number)
    rows = np.empty(len(numbers), _ROW)
    rows["id"], rows["opening"] = np.frombuffer(ids, "S16"), np.frombuffer(openings, "S8")
    rows["number"] = np.frombuffer(numbers, np.int64)
    return rows, made


def _repeats(path: Path, rows: np.ndarray) -> set[int]:
    """The numbers of the rows that repeat the id of an earlier one. Raises DuplicateIdError for another opening."""
    order = np.argsort(rows["id"], kind="stable")
    ids, openings = rows["id"][order], rows["opening"][order]
    again = np.flatnonzero(ids[1:] == ids[:-1]) + 1
    if not len(again):
        return set()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    first = starts[np.searchsorted(starts, again, side="right") - 1]
    wrong = openings[again] != openings[first]
    if wrong.any():
        pair = min(
            (int(rows["number"][order[b]]), int(rows["number"][order[a]]))
            for a, b in zip(first[wrong], again[wrong], strict=True)
        )
        _raise_two_openings(path, pair[1], pair[0])
    return set(rows["number"][order[again]].tolist())


def _raise_two_openings(path: Path, first: int, second: int) -> None:
    shared = next(item_of(row.value).id for row in read_rows(path) if row.number == first)
    raise DuplicateIdError(
        f"{path}: lines {first} and {second} share the id {shared} but not the opening. "
        "Give one of them another id, or leave ids out to have them computed."
    )


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
