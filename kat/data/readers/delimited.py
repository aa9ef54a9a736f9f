"""CSV and TSV → rows: a header, then records, whose values are text. Quoted values may hold line ends."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from kat.data.readers.bounded import LongLine, long_line_fault
from kat.data.row import Row
from kat.errors import InputError

_DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
_NAME = re.compile(r"[A-Za-z_][\w .:/()-]{0,63}")
_LONGEST = 2**31 - 1
"""The longest value; the csv module's own limit is 131,072, and there are longer answers."""


def delimiter_of(suffix: str, first: bytes, second: bytes) -> str | None:
    """Return what divides the values of a file, by its suffix and first two lines; None if it is no such file.

    Without a suffix that says so, the first line must be made of names and the second must not be JSON.
    """
    if first.lstrip().startswith((b"{", b"[")):
        return None
    text = first.decode("utf-8", "replace")
    if suffix in _DELIMITERS:
        return max(_DELIMITERS[suffix], key=text.count)
    if second.lstrip().startswith((b"{", b"[")) or not second.strip():
        return None
    for delimiter in "\t,;":
        try:
            names = next(csv.reader([text], delimiter=delimiter), [])
        except csv.Error:  # a carriage return inside, or a value of more than 128 KB
            return None
        if len(names) > 1 and all(_NAME.fullmatch(name.strip()) for name in names):
            return delimiter
    return None


def read_delimited(path: Path, lines: Iterable[bytes], delimiter: str, limit: int, before: int = 0) -> Iterator[Row]:
    """Read the records of a file; `number` is the line that a record begins on, after the `before` lines before them.

    A record over several lines counts as one line: the first line that takes it over `limit` bytes ends it, as a bad
    row, and the next line begins another record. Raises InputError for the header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    decoded = _Decoded(lines, limit)
    held = decoded.held
    reader = csv.reader(decoded, delimiter=delimiter, strict=True)
    header = _header(path, reader, before)
    while True:
        decoded.begin_record()
        number = before + decoded.count + 1
        try:
            fields = next(reader, None)
        except _LongRecord:
            yield Row(number, b"", None, long_line_fault(limit))
            continue
        except csv.Error as error:
            closed = "unexpected end" not in str(error)
            fault = "not CSV: quotes inside a value that are not doubled" if closed else "a quote that is never closed"
            yield Row(number, b"".join(held).rstrip(b"\r\n"), None, fault)
            continue
        if fields is None:
            return
        if fields:
            yield _record(number, b"".join(held).rstrip(b"\r\n"), header, fields)


class _LongRecord(Exception):
    """Ends a record of the csv module, which begins the next one with the next line."""


class _Decoded(Iterator[str]):
    """Lines as text, those of one record `held` as they are; a byte that is no UTF-8 becomes a lone surrogate."""

    def __init__(self, lines: Iterable[bytes], limit: int) -> None:
        self._lines, self._limit, self._size = iter(lines), limit, 0
        self.held: list[bytes] = []
        self.count = 0

    def begin_record(self) -> None:
        """Let the lines of the last record go."""
        self.held.clear()
        self._size = 0

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        self._size += len(line)
        # Each line was measured without its end; of a record the last line's end is no part either.
        if isinstance(line, LongLine) or (self.held and self._size - 2 > self._limit):
            raise _LongRecord
        self.held.append(line)
        return line.decode("utf-8", "surrogateescape")


def _header(path: Path, reader: Iterator[list[str]], before: int) -> list[str]:
    place = f"{path}:{before + 1}"
    try:
        header = [name.strip() for name in next((fields for fields in reader if fields), [])]
    except csv.Error as error:
        raise InputError(f"{place} is no header of a CSV file: {error}.") from error
    except _LongRecord:
        raise InputError(f"{place} is no header of a CSV file: a line over the limit (--max_line_bytes).") from None
    if repeated := [name for name, n in Counter(header).items() if n > 1]:
        raise InputError(f"{place} names the column {repeated[0]!r} twice; rename one.")
    return header


def _record(number: int, raw: bytes, header: list[str], fields: list[str]) -> Row:
    if len(fields) != len(header):
        return Row(number, raw, None, f"{'fewer' if len(fields) < len(header) else 'more'} values than columns")
    value: dict[str, str | None] = dict(zip(header, fields, strict=True))
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return Row(number, raw, None, "invalid UTF-8")
    if value.get("id") == "":
        value["id"] = None  # an empty cell is no id
    return Row(number, raw, value, all_text=True)
