"""Parquet and Arrow files → rows: what nobody needs is not decoded, and a batch is bounded by its bytes.

A column is read if it is needed, or if it may hold a picture: text, or lists and objects of it. One of bytes is not,
nor are numbers, times and the like that nobody needs, whatever is wrong with them. A value that Python cannot hold (a
date in the year 50,000, an object with two fields of one name) makes its row a bad one if its column is needed, and is
left out otherwise.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kat.data.media import MEDIA, is_file
from kat.data.readers.values import plain
from kat.data.row import Row
from kat.errors import InputError, translated

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET = b"PAR1"
ARROW = b"ARROW1"
Needed: TypeAlias = Callable[[str], bool | None]
"""Says of a column's name: it is needed (True), it may show pictures (False), or it is of no use (None)."""
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


@dataclass(frozen=True)
class _Choice:
    """Of a schema's columns: those that are `read`, those of them that are `needed`, and those `skipped` as bytes.

    `media` are the skipped ones that are pictures or sound, `names` all that are not skipped.
    """

    read: list[str]
    needed: frozenset[str]
    skipped: tuple[str, ...]
    media: tuple[str, ...]
    names: list[str]


def _choose(path: Path | str, schema: pa.Schema, mean_bytes: Callable[[str], float], needed: Needed | None) -> _Choice:
    """Choose the columns of a file. Raises InputError for a name that stands twice."""
    if repeated := [name for name, n in Counter(schema.names).items() if n > 1]:
        raise InputError(f"{path} names the column {repeated[0]!r} twice; rename one.")
    skipped = skipped_columns(schema, mean_bytes)
    names = [name for name in schema.names if name not in skipped]
    uses = {name: True if needed is None else needed(name) for name in names}
    read = [n for n in names if uses[n] or (uses[n] is False and _holds(schema.field(n).type, _is_text))]
    if not read:
        raise InputError(f"{path} has no column that kat reads; its columns are {_shown(schema.names)}.")
    needs = frozenset(name for name in read if uses[name])
    return _Choice(read, needs, skipped, _media_columns(schema, skipped), names)


def read_parquet(path: Path, needed: Needed | None = None) -> Iterator[Row]:
    """Read the rows of a parquet file. Raises InputError if it is none, or damaged."""
    import pyarrow.parquet as pq

    with _damage_said(path, "parquet") as rows, pq.ParquetFile(path, buffer_size=1 << 20) as table:
        choice = _choose(path, table.schema_arrow, partial(_parquet_bytes, table), needed)
        for batch in _parquet_batches(table, choice.read):
            for row in _batch_rows(batch, rows.number, choice):
                rows.number = row.number
                yield row


class _Place:
    """How many rows of a file were read."""

    number = 0


@contextlib.contextmanager
def _damage_said(path: Path, kind: str) -> Iterator[_Place]:
    """Say what is wrong with a file, and how far it was read: whatever the library raises while it takes it apart."""
    import pyarrow as pa

    place = _Place()
    try:
        yield place
    except InputError:
        raise
    except (pa.ArrowException, *_ODD) as error:
        if isinstance(error, OSError):  # an error of reading, which has words of its own
            raise
        said = f"{path} is no {kind} file, or damaged after row {place.number:,}: {error}"
        raise InputError(said) from error


_ODD = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, ImportError, RuntimeError)
"""What pyarrow raises for a value that Python cannot hold, and for damage, by kind of column (RecursionError is a
RuntimeError)."""


def _parquet_bytes(table: pq.ParquetFile, name: str) -> float:
    """The mean size of a column's values, as the metadata of the first row groups has it."""
    total = rows = 0
    for group in range(min(table.num_row_groups, _PROBED)):
        next(table.iter_batches(1, row_groups=[group], columns=[name]), None)
        total += _group_bytes(table, group, {name})
        rows += table.metadata.row_group(group).num_rows
    return total / max(rows, 1)


def _group_bytes(table: pq.ParquetFile, group: int, names: Collection[str]) -> int:
    """The size of some columns of a row group, by its metadata.

    Only of columns that were read before: the library ends the process where damaged metadata is looked at, and raises
    an error where it is read.
    """
    facts = table.metadata.row_group(group)
    paths = [table.schema.column(i).path for i in range(facts.num_columns)]
    read = [i for i, path in enumerate(paths) if path.split(".")[0] in names]
    return sum(facts.column(i).total_uncompressed_size for i in read)


def _parquet_batches(table: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of a file's row groups, each of as many rows as its metadata and its first rows say are few bytes."""
    for group in range(table.num_row_groups):
        # A value that many rows share is written once, so that the metadata alone may say too little.
        probe = next(table.iter_batches(_PROBED, row_groups=[group], columns=names), None)
        decoded = probe.nbytes / max(probe.num_rows, 1) if probe else 0
        size = _group_bytes(table, group, names)
        row = max(size / max(table.metadata.row_group(group).num_rows, 1), decoded, 1)
        rows = int(min(max(_MOST_BYTES // row, 1), _MOST_ROWS))
        yield from table.iter_batches(rows, row_groups=[group], columns=names)


def read_arrow(path: Path, needed: Needed | None = None) -> Iterator[Row]:
    """Read the rows of an Arrow file, in its streaming format (as `datasets` saves it) or the other one."""
    import pyarrow as pa

    with _damage_said(path, "Arrow") as rows, pa.memory_map(str(path)) as file:
        for batch in _arrow_batches(file):
            choice = _choose(path, batch.schema, partial(_batch_bytes, batch), needed)
            kept = batch.select(choice.read)
            for name in choice.read:
                _check_offsets(name, kept.column(name))
            for row in _batch_rows(kept, rows.number, choice):
                rows.number = row.number
                yield row


def read_batches(name: str, batches: Iterable[pa.RecordBatch], needed: Needed | None = None) -> Iterator[Row]:
    """Read the rows of batches that a caller holds, `name` being what messages call them."""
    number = 0
    with translated(InputError, f"{name} cannot be read"):
        for batch in batches:
            if not batch.num_columns or not batch.num_rows:
                continue
            choice = _choose(name, batch.schema, partial(_batch_bytes, batch), needed)
            yield from _batch_rows(batch.select(choice.read), number, choice)
            number += batch.num_rows


def _check_offsets(name: str, column: pa.Array) -> None:
    """Raise ArrowInvalid for a column whose offsets or indices lead outside of its buffers: reading it would crash.

    Bytes that are no UTF-8 are no such fault: their rows alone are bad.
    """
    import pyarrow as pa

    try:
        column.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        if not _holds(column.type, _is_text):
            raise
        column.view(_as_bytes(column.type)).validate(full=True)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """A type with bytes in the place of text, of the same layout."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_field_as_bytes(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_field_as_bytes(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_field_as_bytes(kind.field(i)) for i in range(kind.num_fields)])
    return kind


def _field_as_bytes(field: pa.Field) -> pa.Field:
    return field.with_type(_as_bytes(field.type))


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


def _batch_rows(batch: pa.RecordBatch, before: int, choice: _Choice) -> Iterator[Row]:
    odd = {field.name for field in batch.schema if not _is_plain(field.type)}
    columns = list(zip(batch.schema.names, batch.columns, strict=True))
    unread = dict.fromkeys(choice.names)
    for i in range(batch.num_rows):
        number = before + i + 1
        value: dict[str, Any] = {}
        fault = None
        for name, column in columns:
            try:
                value[name] = plain(column[i].as_py()) if name in odd else column[i].as_py()
            except _ODD as error:
                value[name] = None
                if name in choice.needed:
                    fault = fault or _fault(name, column.type, error)
        raw = json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace")
        if fault:
            yield Row(number, raw, None, fault, choice.skipped, media=choice.media)
            continue
        # A column that was not read is there all the same: it is counted as one that was left behind.
        value = value if len(value) == len(unread) else unread | value
        yield Row(number, raw, value, skipped=choice.skipped, media=choice.media)


def _fault(name: str, kind: pa.DataType, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "invalid UTF-8"
    return f"column {_shown([name])} holds a value that Python cannot hold, of type {_shown([str(kind)])}"


def _shown(names: list[str]) -> str:
    """Names as text that a terminal can show, of some length."""
    listed = ascii(", ".join(names))[1:-1]
    return listed if len(listed) <= _LONGEST else listed[:_LONGEST] + "..."


_LONGEST = 100


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a type's values come as what JSON has: text, numbers, truth values, and lists and objects of these."""
    import pyarrow as pa

    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_float16(kind):  # of older versions of pyarrow NumPy's
        return False
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    return any(test(kind) for test in (*tests, types.is_null))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view" or _is_bytes(kind)
