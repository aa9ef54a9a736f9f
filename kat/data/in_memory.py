"""What Python users hold → rows as the readers of files give them, and texts: frames, tables, data sets, lists, dicts.

Nothing of pandas, polars or datasets is imported: their objects are told by the module of their type, others by the
protocols of Arrow. A row becomes the JSON that a file of it would hold, and is read as that: one path for all, so that
ids, row numbers and faults are those of files. None, NaN, NaT and NA are all null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from kat.data.readers.objects import article, is_missing, object_row, table_row
from kat.data.readers.tables import Needed, read_batches
from kat.data.row import Row
from kat.errors import InputError
from kat.inputs import InMemory, Inputs
from kat.parameters import near_name
from kat.records import Pair, Prefix
from kat.terminal import escaped

if TYPE_CHECKING:
    import pyarrow as pa


class ArrowStream(Protocol):
    """What gives its rows by Arrow's protocol, as tables of pyarrow and frames of polars do."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Rows: TypeAlias = Iterable[Any] | ArrowStream
_ROWS = 1024
"""Rows of a frame that are made Python objects at once."""
_LISTED = 12


@dataclass(frozen=True, eq=False)
class _Held(InMemory):
    """Rows of a caller's object: in `batches` of Arrow, or as `items`, a dict each."""

    items: Callable[[], Iterable[Any]] | None = None
    batches: Callable[[], Iterable[pa.RecordBatch]] | None = None

    def rows(self, max_line_bytes: int, needed: Needed | None) -> Iterator[Row]:
        """Yield the rows, numbered from 1."""
        use = cache(needed) if needed else _all_needed
        if self.batches is not None:
            for row in read_batches(self.name, self.batches(), use):
                yield row if row.value is None else table_row(row, use, max_line_bytes)
            return
        assert self.items is not None
        for number, item in enumerate(self.items(), 1):
            if isinstance(item, Mapping):
                yield object_row(number, item, use, max_line_bytes)
            else:
                raw = repr(item).encode("utf-8", "replace")
                yield Row(number, raw, None, f"no dict but {article(type(item).__name__)}")


def input_of(data: Any) -> Inputs:
    """Return the rows of an object that is no path; paths as they are.

    Raises InputError for what cannot be rows: text as bytes, a DatasetDict, columns of different lengths.
    """
    if isinstance(data, str | Path | InMemory):
        return Path(data) if isinstance(data, str) else data
    listed = isinstance(data, list | tuple) and all(isinstance(one, str | Path) for one in data)
    if listed and not (isinstance(data, list) and not data):  # an empty list is one of rows
        return tuple(map(Path, data))
    name = f"the {type(data).__name__}"
    if isinstance(data, bytes | bytearray):
        raise InputError("Rows were expected, or the path of a file as text; got bytes. Parse them first.")
    _refuse_splits(data)
    if (table := _table_of(data)) is not None:
        return _Held(name, items=table.items, batches=table.batches)
    if not isinstance(data, Iterable):
        raise InputError(f"Rows were expected (a DataFrame, a list of dicts), or a path; got {_kind(data)}.")
    return _Held(name, items=lambda: map(_item, data))


def texts_in_memory(data: Any, column: str | None, function: str) -> list[str | Prefix]:
    """Return the texts (or prefixes) that a caller holds: the items of a list or Series, or a table's column.

    Raises InputError for a table without a column's name, a name that is not there, and an item that is no text.
    """
    name = f"the {type(data).__name__}"
    if isinstance(data, str | bytes | bytearray | Prefix):
        hint = "For one text: [text]." if isinstance(data, str) else "For one prefix: [prefix]."
        hint = "Decode it." if isinstance(data, bytes | bytearray) else hint
        raise InputError(f"{function} was given {_kind(data)}; expected a list of strings or of kat.Prefix. {hint}")
    _refuse_splits(data)
    table = _table_of(data)
    if table is not None and column is None:
        names = f"the columns {_shown(table.names)}" if table.names else "no columns"
        example = next((one for one in ("prompt", "text", "question") if one in table.names), "NAME")
        raise InputError(
            f'{function} was given {_kind(data)} with {names}; name that of the texts: column="{example}".'
        )
    if table is not None and column is not None:
        if column not in table.names:
            raise InputError(_no_column(name, column, table.names))
        values = table.column(column)
    elif not isinstance(data, Iterable):
        raise InputError(f"{function} was given {_kind(data)}; expected a list of strings or of kat.Prefix.")
    elif column is not None:
        values = (_field(item, column, name, number) for number, item in enumerate(data, 1))
    else:
        values = data.to_pylist() if hasattr(data, "to_pylist") else data
    return [_text(value, number, name, column) for number, value in enumerate(values, 1)]


def checked_pairs(pairs: Iterable[Pair], function: str) -> Iterator[Pair]:
    """Yield pairs as they are. Raises InputError for anything else, saying how rows become pairs."""
    if not isinstance(pairs, Iterable):
        raise InputError(f"{function} was given {_kind(pairs)}; expected pairs: kat.read_pairs(…).")
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, Pair):
            raise InputError(
                f"{function} was given {_kind(pairs)} whose item {number:,} is {_kind(pair)}; expected kat.Pair. "
                "Rows become pairs by kat.read_pairs(rows)."
            )
        yield pair


@dataclass(frozen=True, eq=False)
class _Table:
    """Columns by name: either as `batches` of Arrow, or as `items`, a dict a row; `column` gives one's values."""

    names: list[str]
    column: Callable[[str], Iterable[Any]]
    items: Callable[[], Iterable[Any]] | None = None
    batches: Callable[[], Iterable[pa.RecordBatch]] | None = None


def _table_of(data: Any) -> _Table | None:
    """An object that has columns; None for any other."""
    if _is(data, "pandas", "DataFrame"):
        return _frame(data)
    if _is(data, "datasets", "Dataset"):
        # As Arrow whatever the format is that was set: the rows themselves, in the order of a selection.
        return _arrow(data.column_names, lambda: _batches(data.with_format("arrow").iter(_ROWS)))
    if _is(data, "polars", "LazyFrame"):
        raise InputError("A LazyFrame holds no rows yet; pass lazy.collect().")
    if _is(data, "pyarrow", "RecordBatch"):
        return _arrow(data.schema.names, lambda: [data])
    if _is(data, "pyarrow", "RecordBatchReader"):
        return _arrow(data.schema.names, lambda: data)
    if hasattr(data, "__arrow_c_stream__") and hasattr(data, "columns"):  # a Series streams too, of one column
        return _stream(data)
    if hasattr(data, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        table = from_dataframe(data)
        return _arrow(table.schema.names, table.to_batches)
    return _columns(data) if isinstance(data, Mapping) else None


def _stream(data: Any) -> _Table:
    import pyarrow as pa

    table = data if isinstance(data, pa.Table) else pa.table(data)
    return _arrow(table.schema.names, table.to_batches)


def _arrow(names: Iterable[str], batches: Callable[[], Iterable[pa.RecordBatch]]) -> _Table:
    def column(name: str) -> Iterator[Any]:
        for batch in batches():
            yield from batch.column(batch.schema.names.index(name)).to_pylist()

    return _Table(list(names), column, batches=batches)


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.to_batches()


def _frame(frame: Any) -> _Table:
    """A pandas.DataFrame, by position: neither the index nor a column's kind of label matters."""
    names = _distinct("the DataFrame", frame.columns)

    def rows(start: int) -> Iterator[dict[str, Any]]:
        columns = [frame.iloc[start : start + _ROWS, i].tolist() for i in range(len(names))]
        return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))

    def items() -> Iterator[dict[str, Any]]:
        return (row for start in range(0, len(frame), _ROWS) for row in rows(start))

    return _Table(names, lambda name: frame.iloc[:, names.index(name)].tolist(), items=items)


def _columns(data: Mapping[Any, Any]) -> _Table:
    """A dict of columns. Raises InputError for one that is no column, or that has another length."""
    names = _distinct("the dict", data)
    columns = dict(zip(names, map(_listed, data.values()), strict=True))
    for name, values in columns.items():
        if values is None:
            raise InputError(
                f"the dict holds {_kind(data[name])} under {escaped(name)}; expected columns, lists of one length. "
                "For one row: [row]; for its values: list(data.values())."
            )
    lengths = {name: len(values) for name, values in columns.items() if values is not None}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{escaped(name)} {n:,}" for name, n in lengths.items())
        raise InputError(f"the dict holds columns of different lengths: {told}.")

    def items() -> Iterator[dict[str, Any]]:
        return (dict(zip(names, row, strict=True)) for row in zip(*(columns[n] or () for n in names), strict=True))

    return _Table(names, lambda name: columns[name] or (), items=items)


def _listed(column: Any) -> list[Any] | None:
    """The values of a column; None for what is none."""
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
        return None
    return column.to_pylist() if hasattr(column, "to_pylist") else list(column)


def _item(item: Any) -> Any:
    """What a list holds in the place of a dict, as one where it has fields. Raises InputError for pairs."""
    if isinstance(item, Pair | Prefix):
        raise InputError(f"Rows were expected, and these are kat.{type(item).__name__} already: use them as they are.")
    if is_dataclass(item) and not isinstance(item, type):
        return {one.name: getattr(item, one.name) for one in fields(item)}
    return item._asdict() if hasattr(item, "_asdict") else item


def _field(item: Any, column: str, name: str, number: int) -> Any:
    row = _item(item)
    if not isinstance(row, Mapping):
        raise InputError(
            f"column is {column!r}, and row {number:,} of {name} is {_kind(item)}; expected a dict. Leave column out."
        )
    if column not in row:
        raise InputError(_no_column(f"row {number:,} of {name}", column, list(map(str, row))))
    return row[column]


def _text(value: Any, number: int, name: str, column: str | None) -> str | Prefix:
    if isinstance(value, str | Prefix):
        return value
    where = f"row {number:,} of {name}" + (f", column {escaped(column)}," if column is not None else "")
    if is_missing(value):
        raise InputError(f"{where} is missing ({value}); expected text. Drop such rows first.")
    if isinstance(value, Pair):
        raise InputError(f"{where} is a Pair; expected a text or a kat.Prefix: kat.unique_prefixes(pairs).")
    if isinstance(value, Mapping) and column is None:
        keys = _shown(list(map(str, value)))
        raise InputError(f"{where} is a dict of {keys}; expected text. Name that of the texts: column=…")
    raise InputError(f"{where} is {_kind(value)}; expected text or a kat.Prefix.")


def _refuse_splits(data: Any) -> None:
    if _is(data, "datasets", "DatasetDict", "IterableDatasetDict"):
        names = [str(name) for name in data]
        first = "train" if "train" in names else names[0] if names else "SPLIT"
        raise InputError(
            f"A {type(data).__name__} holds several splits: {_shown(names) or 'none'}. Pass one: data[{first!r}]."
        )


def _is(data: Any, module: str, *names: str) -> bool:
    """Whether an object's type, or one that it derives from, is of a module's names."""
    return any(one.__module__.partition(".")[0] == module and one.__name__ in names for one in type(data).__mro__)


def _distinct(name: str, labels: Iterable[Any]) -> list[str]:
    names = [str(label) for label in labels]
    if repeated := next((one for i, one in enumerate(names) if one in names[:i]), None):
        raise InputError(f"{name} names the column {escaped(repeated)} twice; rename one.")
    return names


def _no_column(name: str, column: str, names: list[str]) -> str:
    return f"{name} has no column {column!r}.{near_name(column, names)} Its columns are {_shown(names) or 'none'}."


def _shown(names: list[str]) -> str:
    return ", ".join(map(escaped, names[:_LISTED])) + (", …" if len(names) > _LISTED else "")


def _kind(value: Any) -> str:
    return article(type(value).__name__)


def _all_needed(_: str) -> bool:
    return True
