"""Files to rows: JSON lines and arrays, CSV, parquet and Arrow, told by their content, with the place of every row.

A row that cannot be used is a `BadRow`, raised by whoever finds the fault and counted by `BadRows`.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from kat.config import MAX_LINE_BYTES
from kat.data.readers.arrays import is_array, read_array
from kat.data.readers.bounded import LongLine, bounded_lines
from kat.data.readers.delimited import delimiter_of, read_delimited
from kat.data.readers.lines import parse_line, read_lines
from kat.data.readers.streams import BOM, opened
from kat.data.readers.tables import ARROW, PARQUET, Needed, read_arrow, read_parquet
from kat.data.row import BadRow, BadRows, Row, path_text, rejected_line
from kat.errors import InputError
from kat.inputs import COMPRESSED, InMemory, InputFile, Inputs, data_suffix, input_files, missing_file

__all__ = ["BOM", "BadRow", "BadRows", "Row", "missing_file", "parse_line", "path_text", "read_rows", "rejected_line"]

_SNIFFED = 1 << 16
"""Bytes in which the first two lines are looked for."""
_BLANK = 1000
"""Lines in which the second one is looked for."""
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError)


def read_rows(path: Inputs, max_line_bytes: int = MAX_LINE_BYTES, needed: Needed | None = None) -> Iterator[Row]:
    """Read the rows of an input in order, streamed: of a file, of a folder of shards or a glob, or of several of these.

    A line of more than `max_line_bytes`, its end left out, is a row with a fault, and is never held in memory: no more
    than the limit and a few MB are, also of what a small compressed file unpacks to. The record of a CSV file and the
    item of a JSON array have the same limit. A row of a table (parquet, Arrow) has none: its columns stand in memory by
    batches of some rows. `needed` says which columns of a table are read (`kat.data.readers.tables`); all, unless told.

    Raises InputError for what is missing, of another format, or damaged.
    """
    if isinstance(path, InMemory):
        return path.rows(max_line_bytes, needed)
    files = input_files(path)
    reading = Reading(max_line_bytes, needed)
    if len(files) == 1 and isinstance(path, str | Path) and files[0].path == Path(path):
        return _rows(files[0].path, reading)
    return _rows_of(files, reading)


@dataclass(frozen=True)
class Reading:
    """How files are read: the bytes of a line at most, and which columns of a table are needed."""

    max_line_bytes: int
    needed: Needed | None


def _rows_of(files: list[InputFile], reading: Reading) -> Iterator[Row]:
    """The rows of several files: `number` runs on, `file` and `line` say where each is."""
    before = 0
    for file in files:
        last = 0
        for row in _rows(file.path, reading):
            last = row.number
            yield replace(row, number=before + last, line=row.line or last, file=file.path)
        before += last


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    try:
        yield from _read(path, reading)
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged: {error}. Copy or download it again.") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. If it is damaged, copy it again."
        ) from error


def _read(path: Path, reading: Reading) -> Iterator[Row]:
    suffix = data_suffix(path)
    with opened(path) as stream:
        head = stream.peek(len(ARROW))
        table = next((reader for magic, reader in _TABLES.items() if head.startswith(magic)), _NAMED.get(suffix))
        if table is None:
            yield from _read_text(path, stream, suffix, reading.max_line_bytes)
            return
    if path.suffix.lower() in COMPRESSED:
        raise InputError(f"{path} is a compressed table; unpack it first.")
    yield from table(path, reading.needed)


_TABLES = {PARQUET: read_parquet, ARROW: read_arrow}
_NAMED = {".parquet": read_parquet, ".arrow": read_arrow}
"""Arrow's streaming format begins with nothing of its own, and a damaged file with anything."""


def _read_text(path: Path, stream: io.BufferedReader, suffix: str, limit: int) -> Iterator[Row]:
    blank, first = 0, stream.readline(_SNIFFED)
    while first and not first.strip():
        blank += first.endswith(b"\n")
        first = stream.readline(_SNIFFED)
    # Perhaps all of an array is in one line: not read at once.
    long = len(first) == _SNIFFED and not first.endswith(b"\n")
    if is_array(first, b"" if long else b"more"):
        yield from read_array(first, stream, limit, blank)
        return
    lines = bounded_lines(stream, limit, first)
    head, second = list(islice(lines, 1)), b""
    while not second.strip() and len(head) < _BLANK and (line := next(lines, None)) is not None:
        head.append(line)
        second = b"more" if isinstance(line, LongLine) else line
    if is_array(first, second.strip()):
        yield from read_array(b"".join([first, *head[1:]]), stream, limit, blank)
    elif delimiter := delimiter_of(suffix, first, second):
        yield from read_delimited(path, chain(head, lines), delimiter, limit, blank)
    else:
        yield from read_lines(chain(head, lines), limit, blank)
