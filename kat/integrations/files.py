"""Rows to files, some at a time: parquet with columns that are said beforehand, and JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 1024
"""Rows that are held before they are written."""
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PLAIN = pa.schema([("pair_id", pa.string()), ("weight", pa.float64()), ("split", pa.string())])
"""The columns of `kat.integrations.rows.plain_row`."""


class ParquetRows:
    """A parquet file that rows are added to, as a context; a file without rows is not made.

    The schema is given, not guessed from the first rows: all of their weights may be null.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self._path, self._schema = path, schema
        self._held: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetRows:
        return self

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row, and write those that are held once they are BATCH many."""
        self._held.append(row)
        if len(self._held) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.Table.from_pylist(self._held, schema=self._schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._writer.write_table(table)
        self._held = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to a parquet file; none is made of no rows."""
    with ParquetRows(path, schema) as writer:
        for row in rows:
            writer.add(row)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines, which bring their own line ends, to a file."""
    with path.open("wb") as file:
        file.writelines(lines)
