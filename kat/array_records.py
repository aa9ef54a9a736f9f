"""What records that hold arrays share: equality, one line that says what they are, and tables of their rows."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, overload

from kat.errors import InputError, MismatchError, MissingExtraError
from kat.terminal import escaped

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import pyarrow as pa

_ROWS, _ITEMS, _LETTERS = 5, 3, 64
"""What a notebook shows: so many rows, so many numbers or names of a list, so many letters of a name."""
_BLOCK = 1 << 20
"""How many numbers are compared at a time, so that equality takes no memory of the size of an array."""


class Named(NamedTuple):
    """A column of lists of ids: `indices` [N, k] into `ids`."""

    indices: np.ndarray
    ids: Sequence[str]


Rows: TypeAlias = "slice | np.ndarray"
"""Which rows: a slice, or numbers [R] int64 from 0 up."""
Columns = Mapping[str, "Sequence[str] | np.ndarray | Named"]
"""A table's columns by name, ids first, row i of each belonging to row i of the others."""


@dataclass(frozen=True, eq=False, repr=False)
class ArrayRecord:
    """A record with arrays, compared by what they hold: NaN equals NaN in the same place. It has no hash.

    `repr` is one line, however many rows it has and whatever its ids hold.
    """

    def _facts(self) -> Iterator[str]:
        """Yield what `repr` says, in words."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        compared = [one.name for one in dataclasses.fields(self) if one.compare]
        return all(same(getattr(self, name), getattr(other, name)) for name in compared)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({escaped(', '.join(self._facts()))})"


@dataclass(frozen=True, eq=False, repr=False)
class TableRecord(ArrayRecord):
    """An array record whose rows have ids, and which so is a table too."""

    def _columns(self) -> Columns:
        raise NotImplementedError

    def _values(self) -> np.ndarray:
        """Return the numbers [N] or [N, …] that the record is about."""
        raise NotImplementedError

    def _some(self, rows: Rows) -> Self:
        """Return the record of some rows."""
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        import numpy as np

        values = self._values()
        if dtype is not None and values.dtype != dtype:
            if copy is False:
                raise ValueError(f"An array of {dtype} of {values.dtype} cannot be made without a copy.")
            return values.astype(dtype)
        return np.array(values) if copy else values

    @overload
    def __getitem__(self, rows: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> Self: ...
    def __getitem__(self, rows: Any) -> Any:
        """Return one row as {column: value} by its number, or the record of some: a slice, numbers, or a mask [N].

        Rows are views of the record's memory where a slice names them. What was measured of all rows stays as it is.

        Raises IndexError for a row that there is not, TypeError for what names no rows.
        """
        n = len(self._values())
        chosen = rows_of(rows, n)
        if isinstance(chosen, int):
            return {name: _item(column, chosen) for name, column in self._columns().items()}
        return self._some(chosen)

    def __contains__(self, name: object) -> bool:
        """Whether a row has this id."""
        return isinstance(name, str) and name in self._columns()["id"]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: `repr`, and the first rows in a table that brings no colours of its own."""
        columns = self._columns()
        rows = min(_ROWS, *map(_length, columns.values()))
        lines = [[_cell(column, row) for column in columns.values()] for row in range(rows)]
        if len(columns["id"]) > rows:
            lines.append([f"… {len(columns['id']) - rows:,} more", *[""] * (len(columns) - 1)])
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        return (
            f'<table><caption style="text-align: left">{html.escape(repr(self))}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def to_arrow(self) -> pa.Table:
        """Return the rows as a pyarrow.Table, ids first; NaN stays NaN.

        Numbers share the record's memory where they are contiguous (vectors: and float32), so leave the arrays as they
        are while the table is in use; other arrays are copied. Ids are copied: their bytes, and 4 a row. Lists of ids
        are a dictionary: one copy of the ids, and the record's indices.

        Raises InputError for an id that is no text or no UTF-8, MismatchError if ids and values do not fit together.
        """
        import pyarrow as pa

        columns = self._columns()
        n = len(columns["id"])
        for name, column in columns.items():
            if _length(column) != n:
                raise MismatchError(
                    f"{type(self).__name__} has {n:,} ids and {_length(column):,} rows of {name}; expected as many."
                )
        return pa.table({name: _arrow(column) for name, column in columns.items()})

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows of `to_arrow` as a pandas.DataFrame.

        Numbers are copied, so that the frame may be changed: the memory of the columns. Lists, vectors among them, are
        an array a row, some 100 bytes each: those of numbers are read-only views of the record's memory where
        `to_arrow` shares it, those of ids hold a reference for each id.

        Raises what `to_arrow` raises, and MissingExtraError without pandas.
        """
        return as_frame(self.to_arrow())


def as_frame(table: pa.Table) -> pandas.DataFrame:
    """Return a table as a pandas.DataFrame. Raises MissingExtraError without pandas."""
    try:
        import pandas  # noqa: F401  # pyarrow's own message does not say what to type
    except ImportError as error:
        raise MissingExtraError(
            "to_pandas needs pandas, which is not installed. Type: pip install pandas  (or use to_arrow)"
        ) from error
    return table.to_pandas()


def rows_of(rows: Any, n: int) -> int | Rows:
    """Return what names rows of n: a number from 0 up, a slice, or numbers [R] int64.

    Raises IndexError for a row that there is not, TypeError for what names no rows.
    """
    import numpy as np

    if isinstance(rows, slice):
        return rows
    if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
        if not -n <= rows < n:
            raise IndexError(f"There is no row {rows}; there are {n:,}.")
        return int(rows) % n
    try:
        chosen = np.asarray(rows) if isinstance(rows, np.ndarray) or len(rows) else np.zeros(0, np.int64)
    except (TypeError, ValueError):  # no length, or lists of different lengths
        chosen = np.zeros(0, object)
    if chosen.dtype == bool and chosen.shape == (n,):
        return np.flatnonzero(chosen)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
        raise TypeError(
            f"{name_of(rows)} names no rows; expected a number, a slice, numbers, or a mask of {n:,} bools."
        )
    if len(odd := chosen[(chosen < -n) | (chosen >= n)]):
        raise IndexError(f"There is no row {odd[0]}; there are {n:,}.")
    return chosen.astype(np.int64) % max(n, 1)


def some_of(values: Any, rows: Rows) -> Any:
    """Return rows of an array or a list, None of None."""
    import numpy as np

    if values is None or isinstance(values, np.ndarray) or isinstance(rows, slice):
        return None if values is None else values[rows]
    return [values[row] for row in rows.tolist()]


def same(first: Any, second: Any) -> bool:
    """Return whether two values hold the same: arrays and lists item by item, NaN equal to NaN, mappings by key."""
    if first is second:
        return True
    if isinstance(first, str):  # most of what is compared: ids
        return bool(isinstance(second, str) and first == second)
    import numpy as np

    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and _same_arrays(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, Sequence) and isinstance(second, Sequence):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second or (first != first and second != second))


def _same_arrays(first: np.ndarray, second: np.ndarray) -> bool:
    import numpy as np

    if first.shape != second.shape:
        return False
    if first.ndim == 0 or not first.size:
        return same(first.tolist(), second.tolist())
    nan = first.dtype.kind in "fc" and second.dtype.kind in "fc"
    step = max(1, _BLOCK // (first.size // len(first)))
    return all(
        np.array_equal(first[at : at + step], second[at : at + step], equal_nan=nan)
        for at in range(0, len(first), step)
    )


def number(n: int, word: str) -> str:
    """Return `1 row`, `2,000 rows`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def name_of(value: object) -> str:
    """Return a name as text of at most some sixty letters."""
    text = str(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def span(values: np.ndarray) -> str:
    """Return the least and the greatest of the finite values, and how many are not finite."""
    import numpy as np

    if not len(values):
        return "none"
    low, high, odd = values.min(), values.max(), 0
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = values[np.isfinite(values)]
        odd = len(values) - len(finite)
        if not len(finite):
            return "none finite"
        low, high = finite.min(), finite.max()
    return f"{low:.3g} … {high:.3g}{f' and {odd:,} not finite' if odd else ''}"


def _length(column: Sequence[str] | np.ndarray | Named) -> int:
    return len(column.indices) if isinstance(column, Named) else len(column)


def _cell(column: Sequence[str] | np.ndarray | Named, row: int) -> str:
    if isinstance(column, Named):
        some = [
            name_of(column.ids[i]) if 0 <= i < len(column.ids) else f"row {i}"
            for i in column.indices[row][:_ITEMS].tolist()
        ]
        return escaped(_listed(some, column.indices.shape[1]))
    value = column[row]
    if getattr(value, "ndim", 0):
        return _listed([f"{one:.4g}" for one in value[:_ITEMS]], len(value))
    return escaped(name_of(value) if isinstance(value, str) else f"{value:.6g}")


def _item(column: Sequence[str] | np.ndarray | Named, row: int) -> Any:
    """A row of a column in Python's own types; vectors stay arrays."""
    import numpy as np

    if isinstance(column, Named):
        return [column.ids[i] for i in column.indices[row].tolist()]
    value = column[row]
    return value if isinstance(value, str) or (isinstance(value, np.ndarray) and value.ndim) else value.item()


def _listed(some: list[str], n: int) -> str:
    return ", ".join(some) + (f", … ({n:,})" if n > len(some) else "")


def _arrow(column: Sequence[str] | np.ndarray | Named) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if isinstance(column, Named):
        indices = np.ascontiguousarray(column.indices)
        try:
            names = pa.DictionaryArray.from_arrays(_numbers(indices.reshape(-1)), _texts(column.ids))
        except pa.ArrowIndexError as error:
            raise MismatchError(
                f"Neighbours are rows {indices.min():,} … {indices.max():,}; "
                f"expected rows of the {len(column.ids):,} ids."
            ) from error
        return _lists(names, indices)
    if not isinstance(column, np.ndarray) or column.dtype.kind in "UTO":
        return _texts(column)
    if column.ndim == 1:
        return _numbers(column)
    column = np.ascontiguousarray(column, np.float32)
    return _lists(_numbers(column.reshape(-1)), column)


def _numbers(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))


def _lists(items: pa.Array, rows: np.ndarray) -> pa.Array:
    """Return lists [N] of a fixed size; of size 0 (no neighbours of a single row), which pyarrow cannot cut, lists."""
    import numpy as np
    import pyarrow as pa

    if rows.shape[1]:
        return pa.FixedSizeListArray.from_arrays(items, rows.shape[1])
    return pa.ListArray.from_arrays(pa.array(np.zeros(len(rows) + 1, np.int32)), items)


def _texts(ids: Sequence[str] | np.ndarray) -> pa.Array:
    import pyarrow as pa

    odd = next((row for row, one in enumerate(ids) if not isinstance(one, str)), None)
    if odd is not None:
        raise InputError(f"The id of row {odd} is {name_of(ids[odd])} ({type(ids[odd]).__name__}); expected text.")
    try:
        texts = pa.array(ids, pa.string())
    except UnicodeEncodeError as error:
        raise InputError(
            f"The id {name_of(error.object)!r} holds a lone surrogate, which is no UTF-8; expected text."
        ) from error
    # Past 2 GB of text pyarrow gives pieces, which a dictionary cannot be made of.
    return pa.array(ids, pa.large_string()) if isinstance(texts, pa.ChunkedArray) else texts
