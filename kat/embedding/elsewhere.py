"""Vectors that others made: .npy with ids.json beside it, parquet with columns of ids and vectors, .pt of torch.

Nothing is unpickled. Rows that no density can be measured of are found here, while their ids are known.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.arrays import load_array
from kat.errors import InputError, MismatchError, translated
from kat.records import Embeddings
from kat.run_folder import IDS, load_ids

if TYPE_CHECKING:
    import pyarrow as pa

READ = 'a folder of kat embed, .npy (ids.json beside it), .parquet (columns "id" and "embedding"), or .pt'
NUMBERED = "row numbers"
"""What the origin of vectors says of ids that are none of the source's own."""
_NPY = b"\x93NUMPY"
_ID_COLUMNS = ("id", "ids", "opening_id")
_VECTOR_COLUMNS = ("embedding", "vector", "emb", "embeddings", "vectors")
_UNREADABLE = (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, OSError)
_ROWS = 65_536
"""Rows that are looked at at once."""


def read_vectors(path: Path) -> tuple[Sequence[str], np.ndarray, bool]:
    """Read ids and vectors [N, D] of a file, told by its content, and whether the ids are row numbers.

    Raises InputError if it is not there, MismatchError if it holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected {READ}.")
    with path.open("rb") as file:
        head = file.read(len(_NPY))
    if head == _NPY:
        return _from_npy(path)
    if head.startswith(b"PAR1") or path.suffix == ".parquet":
        return _from_parquet(path)
    return _from_pt(path)


def ids_beside(path: Path) -> Path | None:
    """Return the file of ids that belongs to an .npy file, if there is one."""
    beside = path.parent / IDS
    if not path.is_file() or not beside.is_file():
        return None
    with path.open("rb") as file:
        return beside if file.read(len(_NPY)) == _NPY else None


def _from_npy(path: Path) -> tuple[Sequence[str], np.ndarray, bool]:
    vectors = load_array(path)
    if ids_beside(path):
        return load_ids(path.parent), vectors, False
    return _numbers(len(vectors) if vectors.ndim else 0), vectors, True


def _from_parquet(path: Path) -> tuple[Sequence[str], np.ndarray, bool]:
    import pyarrow.parquet as pq

    with translated(MismatchError, f"{path} is no parquet file, or damaged"):
        names = pq.read_schema(path).names
        vector = next((name for name in _VECTOR_COLUMNS if name in names), None)
        if vector is None:
            raise MismatchError(
                f"{path} has the columns {', '.join(names)}; expected vectors in one of {', '.join(_VECTOR_COLUMNS)}."
            )
        id_column = next((name for name in _ID_COLUMNS if name in names), None)
        table = pq.read_table(path, columns=[vector, *([id_column] if id_column else [])])
        vectors = _lists(table[vector].combine_chunks(), f"{path}, column {vector}")
        ids = None if id_column is None else table[id_column].to_pylist()
    if ids is None:
        return _numbers(len(vectors)), vectors, True
    if None in ids:
        raise MismatchError(f"{path} has no {id_column} in row {ids.index(None)}. Give every vector its id.")
    return [str(i) for i in ids], vectors, False


def _lists(column: pa.Array, where: str) -> np.ndarray:
    """A column of lists of numbers as an array [N, D]; a row that is null is one of NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numeric = any(test(column.type) for test in kinds) and (
        pa.types.is_floating(column.type.value_type) or pa.types.is_integer(column.type.value_type)
    )
    if not numeric:
        raise MismatchError(f"{where} is of {column.type}; expected a list of numbers.")
    missing = np.asarray(column.is_null())
    lengths = np.asarray(pc.list_value_length(column).fill_null(-1))[~missing]
    if not len(lengths):
        return np.full((len(column), 1), np.nan, np.float32)
    if (wrong := lengths != lengths[0]).any():
        row = int(np.flatnonzero(~missing)[np.argmax(wrong)])
        raise MismatchError(f"{where}: row {row} has {lengths[wrong][0]} numbers, and the first {lengths[0]}.")
    values = np.asarray(column.drop_null().flatten().cast(pa.float64()).fill_null(np.nan))
    kind = np.float64 if column.type.value_type == pa.float64() else np.float32
    vectors = np.full((len(column), int(lengths[0])), np.nan, kind)
    vectors[~missing] = values.reshape(-1, int(lengths[0]))
    return vectors


def _from_pt(path: Path) -> tuple[Sequence[str], np.ndarray, bool]:
    import pickle

    import torch

    form = '{"ids": [str], "emb": [N, D]}'
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused below
            value = torch.load(path, weights_only=True, map_location="cpu")
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        # Torch's own words advise to unpickle whatever is there, which runs code: they are not passed on.
        raise MismatchError(
            f"{path} is no file of {form} that can be read without running code; read is {READ}."
        ) from error
    try:
        if not isinstance(value, dict):
            raise TypeError("no dict")
        ids, vectors = value["ids"], value["emb"].float().numpy()
        ids = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    except _UNREADABLE as error:
        holds = f"the keys {', '.join(map(str, value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise MismatchError(f"{path} holds {holds}; expected {form}: ids as text, vectors as one tensor.") from error
    return [str(i) for i in ids], vectors, False


def _numbers(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def bad_vectors(embeddings: Embeddings, *, zero: bool) -> dict[int, str]:
    """Return why rows cannot be used, by row: they are not finite, or all zeros if `zero` says that this counts."""
    faults: dict[int, str] = {}
    for start in range(0, len(embeddings), _ROWS):
        part = np.asarray(embeddings.vectors[start : start + _ROWS])
        with np.errstate(over="ignore"):
            finite = np.isfinite(part.astype(np.float32, copy=False)).all(axis=1)
        for i in np.flatnonzero(~finite):
            faults[start + int(i)] = "NaN, infinity, or more than float32 can hold"
        if zero:
            for i in np.flatnonzero(finite & ~part.any(axis=1)):
                faults[start + int(i)] = "a vector of zeros, which has no direction"
    return dict(sorted(faults.items()))


def without_bad(
    embeddings: Embeddings, source: Path, allowed: int | str, *, zero: bool
) -> tuple[Embeddings, dict[str, str]]:
    """Return the embeddings without unusable rows, and why each was left out, by id; `embeddings` itself if none was.

    Raises InputError, naming the ids, if more rows are unusable than allowed.
    """
    bad = bad_vectors(embeddings, zero=zero)
    if not bad:
        return embeddings, {}
    reasons = {embeddings.ids[row]: reason for row, reason in bad.items()}
    if allowed != "all" and len(bad) > int(allowed):
        shown = [f"row {row}, id {embeddings.ids[row]}: {reason}" for row, reason in list(bad.items())[:10]]
        more = [f"and {len(bad) - 10:,} more"] if len(bad) > 10 else []
        head = f"{source} holds {len(bad):,} unusable vectors of {len(embeddings):,}, and {int(allowed):,} are allowed:"
        remedy = "Embed those texts again, or leave them out with --max_bad_rows all."
        raise InputError(head, *(f"  {line}" for line in [*shown, *more, remedy]))
    if len(bad) == len(embeddings):
        raise InputError(f"{source} holds no usable vector.")
    kept = np.setdiff1d(np.arange(len(embeddings)), list(bad))
    lengths: dict[str, Any] = {
        name: None if (column := getattr(embeddings, name)) is None else column[kept] for name in ("tokens", "lost")
    }
    ids = [embeddings.ids[row] for row in kept.tolist()]
    return replace(embeddings, ids=ids, vectors=np.asarray(embeddings.vectors[kept]), **lengths), reasons
