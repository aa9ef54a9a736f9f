"""Files to rows: JSON lines (plain, gzip, zstandard) and parquet, streamed, with the place of every row.

A row that cannot be used is a `BadRow`, raised by whoever finds the fault and counted by `BadRows`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from kat.errors import BadRowsError, InputError

BOM = b"\xef\xbb\xbf"
FORMATS = ".jsonl, .jsonl.gz, .jsonl.zst, .parquet"


class BadRow(ValueError):
    """Why a row cannot be used: a short fixed reason, counted, and perhaps details of this row."""

    def __init__(self, reason: str):
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
    """Counts bad rows by reason and judges the total against a limit when the file is through.

    `sink`, if given, receives each as `{"file", "line", "reason", "raw"}` in one line of JSON.
    """

    path: Path
    limit: int | str = 0
    sink: Callable[[bytes], object] | None = None
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(n for n, _ in self.counts.values())

    def add(self, row: Row, reason: str) -> None:
        seen, first = self.counts.get(reason, (0, f"{self.path}:{row.number}"))
        self.counts[reason] = (seen + 1, first)
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
    """A bad row unchanged: as text, or in base64 (and then said so) where its bytes are no UTF-8."""
    record: dict[str, Any] = {"file": str(path), "line": row.number, "reason": reason}
    try:
        record["raw"] = row.raw.decode("utf-8")
    except UnicodeDecodeError:
        record |= {"raw": base64.b64encode(row.raw).decode("ascii"), "raw_encoding": "base64"}
    return orjson.dumps(record) + b"\n"


class RowReader:
    """The rows of one file, in order; iterate once. Afterwards `sha256` is the hash of the file's bytes.

    Raises InputError for a file that is missing, of another format, or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.sha256 = ""
        if not self.path.is_file():
            raise InputError(missing_file(self.path))

    def __iter__(self) -> Iterator[Row]:
        try:
            if self.path.suffix == ".parquet":
                yield from self._parquet()
            else:
                yield from self._lines()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self.path} is damaged: {error}. Copy or download it again.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def _lines(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            hashing = _HashingFile(file)
            with _decompressed(self.path, hashing) as lines:
                for number, line in enumerate(lines, 1):
                    row = parse_line(number, line.removeprefix(BOM) if number == 1 else line)
                    if row:
                        yield row
            hashing.drain()
        self.sha256 = hashing.hexdigest()

    def _parquet(self) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise InputError(f"{self.path} is no parquet file: {error}") from error
        number = 0
        with table:
            for batch in table.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(number, batch, i)
        with self.path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()


def missing_file(path: Path) -> str:
    """What to say of an input that is not there: near names in its folder, if any."""
    import difflib

    if path.is_dir():
        return f"{path} is a folder; a file was expected ({FORMATS})."
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3)
    hint = f" Did you mean {' or '.join(str(path.parent / n) for n in near)}?" if near else ""
    return f"{path} does not exist.{hint}"


def parse_line(number: int, line: bytes) -> Row | None:
    """One line of JSON to a row; None for a blank one."""
    body = line.rstrip(b"\r\n")
    if not body.strip():
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value, fault = _second_opinion(body, whole=line.endswith(b"\n"))
        if fault:
            return Row(number, body, None, fault)
    if not isinstance(value, dict):
        return Row(number, body, None, "not a JSON object")
    return Row(number, body, value)


def _second_opinion(body: bytes, *, whole: bool) -> tuple[Any, str | None]:
    """Name what the strict parser disliked. Only integers of over 64 bits are forgiven."""
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
        return None, "not JSON" if whole else "cut last line"
    return value, None


def _no_constant(name: str) -> None:
    raise BadRow("NaN or Infinity, which is not JSON")


def _parquet_row(number: int, batch, i: int) -> Row:
    try:
        value = {name: column[i].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except UnicodeDecodeError:
        return Row(number, b"", None, "invalid UTF-8")
    return Row(number, json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace"), value)


class _HashingFile(io.RawIOBase):
    """A reader that hashes what passes through, so that an input is read once."""

    def __init__(self, file: BinaryIO):
        self._file, self._sha = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = self._file.readinto(buffer)
        self._sha.update(memoryview(buffer)[:size])
        return size

    def drain(self) -> None:
        while self.read(1 << 20):
            pass

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


def _decompressed(path: Path, file: _HashingFile):
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file, mode="rb"), 1 << 20)
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"), 1 << 20)
    return io.BufferedReader(file, 1 << 20)
