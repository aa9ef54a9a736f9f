"""Parquet and Arrow files → rows: columns of bytes are not decoded, and a batch is bounded by its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.data.media import MEDIA, is_file
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
        if _holds(field.type, _is_bytes) and (not _is_bytes(field.type) or mean_bytes(field.name) > _LARGE):
            skipped.append(field.name)
    return tuple(skipped)


def _media_columns(schema: pa.Schema, skipped: tuple[str, ...]) -> tuple[str, ...]:
    """The skipped columns that are pictures or sound, or hold one inside, by the names in their type."""
    return tuple(name for name in skipped if _holds(schema.field(name).type, _is_media))


def _is_media(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    names = [kind.field(i).name for i in range(kind.num_fields)]
    return is_file(names) or not MEDIA.keys().isdisjoint(names)


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests) or str(kind) == "binary_view"


def _is_odd_number(kind: pa.DataType) -> bool:
    """Whether a type's values come as objects of their own and not as Python's numbers."""
    import pyarrow as pa

    return bool(pa.types.is_decimal(kind) or pa.types.is_float16(kind))  # the latter of older versions of pyarrow


def _holds(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or one inside of it, passes a test."""
    import pyarrow as pa

    if test(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _holds(kind.value_type, test)
    if isinstance(kind, pa.BaseExtensionType):
        return _holds(kind.storage_type, test)
    return any(_holds(kind.field(i).type, test) for i in range(kind.num_fields))


def read_parquet(path: Path) -> Iterator[Row]:
    """Read the rows of a parquet file. Raises InputError if it is none, or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20) as table:
            skipped = skipped_columns(table.schema_arrow, partial(_parquet_bytes, table))
            media = _media_columns(table.schema_arrow, skipped)
            names = [name for name in table.schema_arrow.names if name not in skipped]
            for batch in _parquet_batches(table, names):
                for row in _batch_rows(batch, number, skipped, media):
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
                media = _media_columns(batch.schema, skipped)
                for row in _batch_rows(kept, number, skipped, media):
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


def _batch_rows(batch: pa.RecordBatch, before: int, skipped: tuple[str, ...], media: tuple[str, ...]) -> Iterator[Row]:
    odd = [field.name for field in batch.schema if _holds(field.type, _is_odd_number)]
    for i in range(batch.num_rows):
        number = before + i + 1
        try:
            value = {name: column[i].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        except UnicodeDecodeError:
            yield Row(number, b"", None, "invalid UTF-8", skipped, media=media)
            continue
        value |= {name: with_plain_numbers(value[name]) for name in odd}
        raw = json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace")
        yield Row(number, raw, value, skipped=skipped, media=media)


def with_plain_numbers(value: Any) -> Any:
    """Return a value with Python's numbers in the place of decimals and of NumPy's numbers, also inside of it."""
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)
    if hasattr(value, "dtype"):  # NumPy's, which is not loaded to find that out
        return value.item()
    if isinstance(value, dict):
        return {k: with_plain_numbers(v) for k, v in value.items()}
    return [with_plain_numbers(each) for each in value] if isinstance(value, list) else value
