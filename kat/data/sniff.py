"""The first rows of a file: their format, and whether their conversations stand inside a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kat.data.columns import Columns
from kat.data.formats import Format, expected_formats, format_of
from kat.data.inside_text import Inside, recognise
from kat.data.rows import BadRow, Row
from kat.errors import FormatError

SNIFFED = 100
"""Parseable rows that are looked at before the first one is taken apart."""
_MOST_SNIFFED = 10_000  # rows of any kind that are held for that


@dataclass(frozen=True)
class Sniffed:
    """What the first rows say: the rows themselves, their format, the ways of their texts, and how many show each way.

    `taken` ways are read as messages, those `left` are not: both say how many of the `rows` looked at showed them.
    """

    head: list[Row]
    format: Format
    ways: list[Inside]
    rows: int
    taken: dict[str, int]
    left: dict[str, int]


def sniff(rows: Iterator[Row], path: Path, columns: Columns) -> Sniffed:
    """Look at the first rows. Raises FormatError if they are of no known format or of two, InputError for a column that
    is named and not there."""
    head: list[Row] = []
    parseable: list[Row] = []
    while len(parseable) < SNIFFED and len(head) < _MOST_SNIFFED and (row := next(rows, None)):
        head.append(row)
        if row.value is not None:
            parseable.append(row)
    columns.look_at([row.value for row in parseable if row.value is not None])
    numbers, values = [], []
    for row in parseable:
        try:
            values.append(columns.prepare(row.value or {}))
        except BadRow:
            continue
        numbers.append(row.number)
    ways, values, taken, left = recognise(values)
    found = _agreed(list(zip(numbers, values, strict=True)), path)
    if found is None:
        raise FormatError(_unknown_format(head, path))
    columns.use_format(found.columns)
    return Sniffed(head, found, ways, rows=len(values), taken=taken, left=left)


def _agreed(rows: list[tuple[int, dict[str, Any]]], path: Path) -> Format | None:
    """The format that rows of a known format agree on, None if there are none."""
    first_rows: dict[str, tuple[Format, int]] = {}
    for number, value in rows:
        if row_format := format_of(value):
            first_rows.setdefault(row_format.name, (row_format, number))
    if not first_rows:
        return None
    (file_format, first), *others = first_rows.values()
    if others:
        other, second = others[0]
        raise FormatError(
            f"{path} mixes formats: line {first} is {file_format.name}, line {second} is {other.name}. "
            "Put them into files of their own."
        )
    return file_format


def _unknown_format(head: list[Row], path: Path) -> str:
    if not head:
        return f"{path} holds no rows."
    first = next((r for r in head if r.value is not None), None)
    if first is None or first.value is None:
        return f"{path} holds no JSON object in its first {len(head)} rows; line {head[0].number}: {head[0].fault}."
    # ascii() so that no control character of a key reaches the terminal.
    keys = ", ".join(ascii(key)[1:-1] for key in islice(first.value, 12)) or "none"
    return f"{path} is of no known format: line {first.number} has the keys {keys};\n  {expected_formats()}"


def chained(head: list[Row], rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the sniffed rows, freeing them as they go, and then the others."""
    head.reverse()
    while head:
        yield head.pop()
    yield from rows
