"""A map as a table that other programs open: `embedding-atlas map.parquet --text text --x projection_x --y projection_y
--neighbors neighbors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kat.errors import InputError
from kat.records import Neighbors

if TYPE_CHECKING:
    import pyarrow as pa

_OWN = ("id", "text", "projection_x", "projection_y", "neighbors")
_ROWS = 20_000
_NEAREST = 15


def write_map(
    file: IO[bytes],
    ids: Sequence[str],
    texts: Sequence[str],
    xy: np.ndarray,
    *,
    neighbors: Neighbors | None = None,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Write a Parquet table of N rows into an open file: id, text, projection_x, projection_y, neighbors, `columns`.

    `neighbors` become {ids, distances} of the 15 nearest others, whose `ids` are row numbers from 0, as embedding-atlas
    has them. `columns` maps further names to N values each; what is NaN is null in the file.

    Raises InputError for columns of another length, or of a name that the table has already.
    """
    import pyarrow.parquet as pq

    columns = dict(columns or {})
    given = {"text": texts, "projection_x": xy[:, 0], "projection_y": xy[:, 1], **columns}
    if taken := sorted(set(columns) & set(_OWN)):
        raise InputError(f"The map has a column {taken[0]} of its own; give yours another name.")
    for name, values in {**given, **({} if neighbors is None else {"neighbors": neighbors})}.items():
        if len(values) != len(ids):
            raise InputError(f"Column {name} has {len(values)} values; expected {len(ids)}, one an id.")
    arrays = {"id": _texts(ids), **{name: _column(name, values) for name, values in given.items()}}
    writer = None
    for start in range(0, max(len(ids), 1), _ROWS):
        part = _table(arrays, neighbors, slice(start, start + _ROWS))
        writer = writer or pq.ParquetWriter(file, part.schema, compression="zstd")
        writer.write_table(part)
    assert writer is not None
    writer.close()


def _table(arrays: Mapping[str, Any], neighbors: Neighbors | None, rows: slice) -> pa.Table:
    import pyarrow as pa

    part = {name: array[rows] for name, array in arrays.items()}
    if neighbors is not None:
        near, apart = neighbors.indices[rows, :_NEAREST], neighbors.distances[rows, :_NEAREST]
        lists = [_lists(near.astype(np.int64)), _lists(apart.astype(np.float32))]
        part["neighbors"] = pa.StructArray.from_arrays(lists, ["ids", "distances"])
    return pa.table(part)


def _lists(values: np.ndarray) -> Any:
    """Return rows [N, k] as a column of lists."""
    import pyarrow as pa

    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def _column(name: str, values: Any) -> pa.Array:
    """Return values as a column; NaN, and None among texts, become null. Raises InputError for what is no column."""
    import pyarrow as pa

    if not isinstance(values, np.ndarray) and any(isinstance(value, str) for value in values):
        return _texts(values)  # not by way of an array, in which every text takes the room of the longest
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"Column {name} has shape {array.shape}; expected one value a row.")
    return _texts(array.tolist()) if array.dtype.kind in "OUS" else pa.array(array, from_pandas=True)


def _texts(values: Sequence[Any]) -> pa.Array:
    """Return texts as a column. Half a character, which no file in UTF-8 can hold, becomes a question mark."""
    import pyarrow as pa

    clean = [None if v is None or v != v else str(v).encode("utf-8", "replace").decode("utf-8") for v in values]
    return pa.array(clean, pa.large_string())
