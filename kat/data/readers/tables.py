"""Parquet and Arrow files → rows: columns of bytes are not decoded, and a batch is bounded by its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kat.data.row import Row
from kat.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET = b"PAR1"
ARROW = b"ARROW1"
_MOST_ROWS = 1024
_MOST_BYTES = 16 << 20
"""Of the rows that are decoded at once."""
_PROBED = 8


_LARGE = 1 << 16
"""Mean bytes of a value from which a column of bytes is no text: some writers leave text without its mark."""


def skipped_columns(schema: pa.Schema, mean_bytes: Callable[[str], float]) -> tuple[str, ...]:
    """Return the names of columns that hold bytes (pictures, sound): inside of something, or large ones by themselves.

    `mean_bytes` gives the mean size of a column's values.
    """
    skipped = []
    for field in schema:
        if _holds_bytes(field.type) and (not _is_bytes(field.type) or mean_bytes(field.name) > _LARGE):
            skipped.append(field.name)
    return tuple(skipped)


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests) or str(kind) == "binary_view"


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if _is_bytes(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_bytes(kind.storage_type)
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def read_parquet(path: Path) -> Iterator[Row]:
    """Read the rows of a parquet file. Raises InputError if it is none, or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20) as table:
            skipped = skipped_columns(table.schema_arrow, partial(_parquet_bytes, table))
            names = [name for name in table.schema_arrow.names if name not in skipped]
            for batch in _parquet_batches(table, names):
                for row in _batch_rows(batch, number, skipped):
                    number = row.number
                    yield row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no parquet file, or damaged after row {number:,}: {error}") from error


def _parquet_bytes(table: pq.ParquetFile, name: str) -> float:
    """The mean size of a column's values, as the file's metadata has it."""
    total = 0
    for group in range(table.num_row_groups):
        facts = table.metadata.row_group(group)
        columns = (facts.column(i) for i in range(facts.num_columns))
        total += sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == name)
    return total / max(table.metadata.num_rows, 1)


def _parquet_batches(table: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of a file's row groups, each of as many rows as its metadata and its first rows say are few bytes."""
    if not names:
        raise InputError("it has no column of text")
    for group in range(table.num_row_groups):
        facts = table.metadata.row_group(group)
        columns = [facts.column(i) for i in range(facts.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in names)
        # A value that many rows share is written once, so that the metadata alone may say too little.
        probe = next(table.iter_batches(_PROBED, row_groups=[group], columns=names), None)
        decoded = probe.nbytes / max(probe.num_rows, 1) if probe else 0
        row = max(size / max(facts.num_rows, 1), decoded, 1)
        rows = int(min(max(_MOST_BYTES // row, 1), _MOST_ROWS))
        yield from table.iter_batches(rows, row_groups=[group], columns=names)


def read_arrow(path: Path) -> Iterator[Row]:
    """Read the rows of an Arrow file, in its streaming format (as `datasets` saves it) or the other one."""
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(path)) as file:
            for batch in _arrow_batches(file):
                skipped = skipped_columns(batch.schema, partial(_batch_bytes, batch))
                kept = batch.select([name for name in batch.schema.names if name not in skipped])
                for row in _batch_rows(kept, number, skipped):
                    number = row.number
                    yield row
    except pa.ArrowException as error:
        raise InputError(f"{path} is no Arrow file, or damaged after row {number:,}: {error}") from error


def _arrow_batches(file: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    is_file = file.read(len(ARROW)) == ARROW
    file.seek(0)
    if is_file:
        reader = pa.ipc.open_file(file)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)
    else:
        yield from pa.ipc.open_stream(file)


def _batch_bytes(batch: pa.RecordBatch, name: str) -> float:
    return batch.column(name).nbytes / max(batch.num_rows, 1)


def _batch_rows(batch: pa.RecordBatch, before: int, skipped: tuple[str, ...]) -> Iterator[Row]:
    for i in range(batch.num_rows):
        number = before + i + 1
        try:
            value = {name: column[i].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        except UnicodeDecodeError:
            yield Row(number, b"", None, "invalid UTF-8", skipped)
            continue
        raw = json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace")
        yield Row(number, raw, value, skipped=skipped)
