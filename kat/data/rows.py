"""Files to rows: JSON lines and arrays, CSV, parquet and Arrow, told by their content, with the place of every row.

A row that cannot be used is a `BadRow`, raised by whoever finds the fault and counted by `BadRows`.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from kat.data.readers.arrays import is_array, read_array
from kat.data.readers.delimited import delimiter_of, read_delimited
from kat.data.readers.lines import parse_line, read_lines
from kat.data.readers.streams import BOM, opened
from kat.data.readers.tables import ARROW, PARQUET, read_arrow, read_parquet
from kat.data.row import BadRow, BadRows, Row, path_text, rejected_line
from kat.errors import InputError
from kat.inputs import COMPRESSED, InputFile, Inputs, data_suffix, input_files, missing_file

__all__ = ["BOM", "BadRow", "BadRows", "Row", "missing_file", "parse_line", "path_text", "read_rows", "rejected_line"]

_SNIFFED = 1 << 16
"""Bytes in which the first two lines are looked for."""
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError)


def read_rows(path: Inputs) -> Iterator[Row]:
    """Read the rows of an input in order, streamed: of a file, of a folder of shards or a glob, or of several of these.

    Raises InputError for what is missing, of another format, or damaged.
    """
    files = input_files(path)
    if len(files) == 1 and isinstance(path, str | Path) and files[0].path == Path(path):
        return _rows(files[0].path)
    return _rows_of(files)


def _rows_of(files: list[InputFile]) -> Iterator[Row]:
    """The rows of several files: `number` runs on, `file` and `line` say where each is."""
    before = 0
    for file in files:
        last = 0
        for row in _rows(file.path):
            last = row.number
            yield replace(row, number=before + last, line=row.line or last, file=file.path)
        before += last


def _rows(path: Path) -> Iterator[Row]:
    try:
        yield from _read(path)
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged: {error}. Copy or download it again.") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. If it is damaged, copy it again."
        ) from error


def _read(path: Path) -> Iterator[Row]:
    suffix = data_suffix(path)
    with opened(path) as stream:
        head = stream.peek(len(ARROW))
        table = next((reader for magic, reader in _TABLES.items() if head.startswith(magic)), _NAMED.get(suffix))
        if table is None:
            yield from _read_text(path, stream, suffix)
            return
    if path.suffix.lower() in COMPRESSED:
        raise InputError(f"{path} is a compressed table; unpack it first.")
    yield from table(path)


_TABLES = {PARQUET: read_parquet, ARROW: read_arrow}
_NAMED = {".parquet": read_parquet, ".arrow": read_arrow}
"""Arrow's streaming format begins with nothing of its own, and a damaged file with anything."""


def _read_text(path: Path, stream: io.BufferedReader, suffix: str) -> Iterator[Row]:
    head = [stream.readline(_SNIFFED)]
    while head[-1] and not head[-1].strip():
        head.append(stream.readline(_SNIFFED))
    long = len(head[-1]) == _SNIFFED and not head[-1].endswith(b"\n")
    if long and is_array(head[-1], b""):  # perhaps all of it in one line: not read at once
        yield from read_array(b"".join(head), stream)
        return
    head[-1] += stream.readline() if long else b""
    first, second = head[-1], b""
    while not second.strip() and (line := stream.readline()):
        head.append(second := line)
    if is_array(first, second.strip()):
        yield from read_array(b"".join(head), stream)
    elif delimiter := delimiter_of(suffix, first, second):
        yield from read_delimited(path, chain(head, stream), delimiter)
    else:
        yield from read_lines(chain(head, stream))
