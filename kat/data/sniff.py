"""The first rows of a file: their format, and whether their conversations stand inside a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from kat.config import ReadOptions
from kat.data.columns import Columns
from kat.data.formats import Format, expected_formats, format_of
from kat.data.inside_text import Inside, recognise
from kat.data.kinds import seems_to_be
from kat.data.row import holds_a_prompt_alone, prompts_alone
from kat.data.rows import BadRow, Row, read_rows
from kat.errors import FormatError
from kat.inputs import InMemory, InputFile, Inputs, input_files, input_text
from kat.terminal import escaped

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


def check_shards(files: list[InputFile], file_format: Format, options: ReadOptions) -> None:
    """Raise FormatError, naming the file, if one after the first is of another format."""
    for file in files[1:]:
        rows = read_rows(file.path, options.max_line_bytes)
        if (first := next(rows, None)) is None:
            continue  # an empty shard is one without pairs
        other = sniff(chain([first], rows), file.path, Columns(file.path, options)).format
        if other.name != file_format.name:
            raise FormatError(
                f"{file.path} is {other.name}, and {files[0].path} is {file_format.name}. "
                "Files that are read together are of one format; read these apart."
            )


def sniff(rows: Iterator[Row], path: Inputs, columns: Columns) -> Sniffed:
    """Look at the first rows. Raises FormatError if they are of no known format or of two, InputError for a column that
    is named and not there."""
    head: list[Row] = []
    parseable: list[Row] = []
    while len(parseable) < SNIFFED and len(head) < _MOST_SNIFFED and (row := next(rows, None)):
        head.append(row)
        if row.value is not None:
            parseable.append(row)
    columns.look_at(parseable)
    met, values = [], []
    for row in parseable:
        with suppress(BadRow):  # it says nothing of the format; the reader meets it again, counts it and says why
            values.append(columns.prepare(row.value or {}))
            met.append(row)
    ways, values, taken, left = recognise(values)
    file_format = _agreed(list(zip(met, values, strict=True)), path)
    if file_format is None:
        raise FormatError(*_unknown_format(head, path))
    columns.use_format(file_format.columns)
    return Sniffed(head, file_format, ways, rows=len(values), taken=taken, left=left)


def _agreed(rows: list[tuple[Row, dict[str, Any]]], path: Inputs) -> Format | None:
    """The format that rows of a known format agree on, None if there are none."""
    first_rows: dict[str, tuple[Format, Row]] = {}
    for row, value in rows:
        if row_format := format_of(value):
            first_rows.setdefault(row_format.name, (row_format, row))
    if not first_rows:
        return None
    (file_format, first), *others = first_rows.values()
    if others:
        other, second = others[0]
        raise FormatError(
            f"{input_text(path)} mixes formats: {_line(first, path)} is {file_format.name}, "
            f"{_line(second, path)} is {other.name}. "
            f"{'Read them apart.' if isinstance(path, InMemory) else 'Put them into files of their own.'}"
        )
    return file_format


def _line(row: Row, path: Inputs) -> str:
    if isinstance(path, InMemory):
        return f"row {row.number}"
    return f"line {row.line or row.number}" + (f" of {row.file}" if row.file else "")


def _unknown_format(head: list[Row], path: Inputs) -> list[str]:
    name = input_text(path)
    if not head:
        return [f"{name} holds no rows."]
    first = next((r for r in head if r.value is not None), None)
    if first is None or first.value is None:
        place = f"{_line(head[0], path)}: {head[0].fault}"
        if isinstance(path, InMemory):
            return [f"{name} holds no dict to read in its first {len(head)} rows; {place}."]
        guess = seems_to_be(head[0].file or input_files(path)[0].path)
        met = f"{name} holds no JSON object to read in its first {len(head)} rows; {place}."
        return [met, f"  {guess}"] if guess else [met]
    keys = ", ".join(map(escaped, islice(first.value, 12))) or "none"
    if holds_a_prompt_alone(first.value) and not isinstance(path, InMemory):
        return [f"{name} is no file of pairs: {_line(first, path)} has the keys {keys}.", f"  {prompts_alone(path)}"]
    skipped = f" (columns of bytes are not read: {', '.join(first.skipped)})" if first.skipped else ""
    met = f"{name} is of no known format: {_line(first, path)} has the keys {keys}{skipped};"
    return [met, *expected_formats(in_memory=isinstance(path, InMemory))]


def chained(head: list[Row], rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the sniffed rows, freeing them as they go, and then the others."""
    head.reverse()
    while head:
        yield head.pop()
    yield from rows
