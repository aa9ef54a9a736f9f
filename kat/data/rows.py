"""Files to rows: JSON lines (plain, gzip, zstandard) and parquet, streamed, with the place of every row.

A row that cannot be used is a `BadRow`, raised by whoever finds the fault and counted by `BadRows`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from kat.errors import BadRowsError, InputError, OptionError

if TYPE_CHECKING:
    import pyarrow as pa

BOM = b"\xef\xbb\xbf"
FORMATS = ".jsonl, .jsonl.gz, .jsonl.zst, .parquet"


class BadRow(ValueError):
    """Why a row cannot be used: a short reason from a fixed set, so that it can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read. `raw` are its bytes (parquet: its JSON); `value` its object unless `fault` says why not."""

    number: int
    raw: bytes
    value: dict[str, Any] | None
    fault: str | None = None


@dataclass
class BadRows:
    """Count bad rows by reason, and compare the total with a limit when the file is through.

    `sink`, if given, receives each as `{"file", "line", "reason", "raw"}` in one line of JSON.
    """

    path: Path
    limit: int | str = 0
    sink: Callable[[bytes], object] | None = None
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit != "all" and (not isinstance(self.limit, int) or self.limit < 0):
            raise OptionError(f'max_bad_rows is {self.limit!r}; expected a number from 0 up, or "all".')

    @property
    def total(self) -> int:
        """Return the number of bad rows so far."""
        return sum(n for n, _ in self.counts.values())

    def add(self, row: Row, reason: str) -> None:
        """Count a row, and hand it to the sink."""
        count, first = self.counts.get(reason, (0, f"{self.path}:{row.number}"))
        self.counts[reason] = (count + 1, first)
        if self.sink:
            self.sink(rejected_line(self.path, row, reason))

    def check(self) -> None:
        """Raise BadRowsError if more rows were bad than allowed."""
        if self.limit == "all" or self.total <= int(self.limit):
            return
        lines = [f"{n:,} × {reason}, first at {first}" for reason, (n, first) in self.counts.items()]
        rows = "row is" if self.total == 1 else "rows are"
        head = f"{self.total:,} {rows} unusable and {int(self.limit):,} allowed; nothing was written:"
        remedy = "Mend them, or set them aside with --max_bad_rows all (they go to OUT.rejected.jsonl)."
        raise BadRowsError("\n  ".join([head, *lines, remedy]), dict(self.counts))


def rejected_line(path: Path, row: Row, reason: str) -> bytes:
    """Return a bad row unchanged as a line of JSON: as text, or as base64 (and says so) where it is no UTF-8."""
    record: dict[str, Any] = {"file": path_text(path), "line": row.number, "reason": reason}
    try:
        record["raw"] = row.raw.decode("utf-8")
    except UnicodeDecodeError:
        record |= {"raw": base64.b64encode(row.raw).decode("ascii"), "raw_encoding": "base64"}
    return orjson.dumps(record) + b"\n"


def read_rows(path: str | Path) -> Iterator[Row]:
    """Read the rows of a file in order, streamed.

    Raises InputError for a file that is missing, of another format, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(missing_file(path))
    return _rows(path)


def _rows(path: Path) -> Iterator[Row]:
    try:
        yield from _parquet(path) if path.suffix == ".parquet" else _lines(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged: {error}. Copy or download it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _lines(path: Path) -> Iterator[Row]:
    with _decompressed(path) as lines:
        for number, line in enumerate(lines, 1):
            row = parse_line(number, line.removeprefix(BOM) if number == 1 else line)
            if row:
                yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(number, batch, i)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no parquet file, or damaged after row {number:,}: {error}") from error


def path_text(path: Path) -> str:
    """Return a path as text that JSON can hold, also where the file's name is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def missing_file(path: Path) -> str:
    """Return what to say of an input that is not there: near names in its folder, if any."""
    import difflib

    if path.exists() and not path.is_dir():
        return f"{path} is no regular file; kat reads an input more than once. Save it to a file first."
    if path.is_dir():
        return f"{path} is a folder; a file was expected ({FORMATS})."
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f" Did you mean {' or '.join(str(path.parent / n) for n in near)}?" if near else ""
    return f"{path} does not exist.{hint}"


def parse_line(number: int, line: bytes) -> Row | None:
    """Return one line of JSON as a row; None for a blank line."""
    body = line.rstrip(b"\r\n")
    if not body or body.isspace():  # unlike strip(), no copy
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value, fault = _second_opinion(body, complete=line.endswith(b"\n"))
        if fault:
            return Row(number, body, None, fault)
    if not isinstance(value, dict):
        return Row(number, body, None, "not a JSON object")
    if isinstance(value.get("id"), float):
        value = json.loads(body)  # the fast parser rounds integers of over 64 bits, and an id may be one
    return Row(number, body, value)


def _second_opinion(body: bytes, *, complete: bool) -> tuple[Any, str | None]:
    """What the strict parser disliked, in words."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        return None, "invalid UTF-8"
    except UnicodeEncodeError:
        return None, "lone surrogate"
    except BadRow as bad:
        return None, bad.reason
    except (ValueError, RecursionError):
        return None, "not JSON" if complete else "cut last line"
    return value, None


def _no_constant(name: str) -> None:
    raise BadRow("NaN or Infinity, which is not JSON")


def _parquet_row(number: int, batch: pa.RecordBatch, i: int) -> Row:
    try:
        value = {name: column[i].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except UnicodeDecodeError:
        return Row(number, b"", None, "invalid UTF-8")
    return Row(number, json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace"), value)


def _decompressed(path: Path) -> io.BufferedIOBase:
    """The file's lines. Raises InputError if its first bytes are of a format that its name does not say."""
    file = path.open("rb")
    magic = file.read(4)
    file.seek(0)
    for suffix, mark in _MAGIC.items():
        if magic.startswith(mark) and path.suffix != suffix:
            file.close()
            raise InputError(f"{path} holds {suffix[1:]} data; give it a name that ends in {suffix}.")
    if path.suffix == ".gz":
        return gzip.open(file, "rb")
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"), 1 << 20)
    return file


_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".parquet": b"PAR1"}
