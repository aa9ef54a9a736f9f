"""Rows to files, some at a time: parquet with columns that are said beforehand, and JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from kat.errors import InputError

BATCH = 1024
"""Rows that are held before they are written."""
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PLAIN = pa.schema([("pair_id", pa.string()), ("weight", pa.float64()), ("split", pa.string())])
"""The columns of `kat.integrations.rows.plain_row`."""


def json_list() -> pa.DataType:
    """Return the type of lists of JSON values, which `datasets` reads back as the values that were written.

    A struct would give every message the keys of all others, filled with null, and every tool call the arguments of all
    others: another conversation. Raises InputError where pyarrow is too old for it.
    """
    if not hasattr(pa, "json_"):
        raise InputError(
            f"These conversations hold tool calls, tools or names, which parquet carries from pyarrow 19 on; "
            f"this is {pa.__version__}. Type: pip install 'pyarrow>=19'"
        )
    return pa.list_(pa.json_())


def messages_type(rich: bool) -> pa.DataType:
    """Return the type of a column of messages: JSON if any message is more than a role and a text."""
    return json_list() if rich else MESSAGES


def _is_json(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and kind.value_type == getattr(pa, "json_", lambda: None)()


class ParquetRows:
    """A parquet file that rows are added to, as a context; a file without rows is not made.

    The schema is given, not guessed from the first rows: all of their weights may be null. Values of columns of JSON
    are encoded here.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self._path, self._schema = path, schema
        self._json = [f.name for f in schema if _is_json(f.type)]
        # from_pylist makes no extension type; its storage is cast.
        storage = [f.with_type(pa.list_(pa.string())) if f.name in self._json else f for f in schema]
        self._storage = pa.schema(storage)
        self._held: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetRows:
        return self

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row, and write those that are held once they are BATCH many."""
        self._held.append({**row, **{name: _encoded(row.get(name)) for name in self._json}} if self._json else row)
        if len(self._held) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.Table.from_pylist(self._held, schema=self._storage)
        if self._json:
            table = table.cast(self._schema)
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


def _encoded(values: list[Any] | None) -> list[str] | None:
    return None if values is None else [orjson.dumps(value).decode() for value in values]


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to a parquet file; none is made of no rows."""
    with ParquetRows(path, schema) as writer:
        for row in rows:
            writer.add(row)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines, which bring their own line ends, to a file."""
    with path.open("wb") as file:
        file.writelines(lines)
