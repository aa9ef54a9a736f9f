"""Neighbours on disk: plain arrays in one folder, so that other weights need no new search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from kat.arrays import check_array, load_array
from kat.artifacts import first_damage, readable_manifest
from kat.errors import MismatchError
from kat.records import Embeddings, Halves, Neighbors
from kat.run_folder import NEIGHBOR_FILES

STORED_NEIGHBORS = 50
"""Neighbours kept at least, so that weights at another k need no new search."""
_HALVES = ("half_rows", "half_first", "half_second")
_ARRAYS = {
    "indices": (True, True, 2),
    "distances": (False, True, 2),
    "multiplicity": (True, True, 1),
    "spacing": (False, True, 2),
    "half_rows": (True, False, 1),
    "half_first": (False, False, 2),
    "half_second": (False, False, 2),
}
"""Of each array: whether it holds whole numbers, whether it has a row for each vector, and its dimensions."""
_ROWS = 65_536
"""Rows that are checked at once."""
_AGAIN = "Make it again: kat density EMBEDDINGS --out DIR --overwrite"


def save_neighbors(neighbors: Neighbors, folder: Path) -> None:
    """Write indices [N, k] int32, distances [N, k] float32, multiplicity [N] int32, and what else there is to keep."""
    arrays = {
        "indices": neighbors.indices.astype(np.int32),
        "distances": neighbors.distances,
        "multiplicity": neighbors.multiplicity.astype(np.int32),
    }
    if neighbors.multiplicity.max() > 1:  # without duplicates every other is distinct: the distances are enough
        arrays["spacing"] = neighbors.distinct_distances
    if neighbors.halves is not None:
        arrays["half_rows"] = neighbors.halves.rows
        arrays["half_first"] = neighbors.halves.first
        arrays["half_second"] = neighbors.halves.second
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def load_neighbors(folder: Path, embeddings: Embeddings) -> Neighbors:
    """Map the neighbours of a folder, for the embeddings they were searched among, into memory: arrays as they are
    stored, read where they are used. Raises MismatchError."""
    manifest = readable_manifest(folder)
    if manifest is None or not set(NEIGHBOR_FILES) <= set(manifest.get("outputs") or ()):
        raise MismatchError(f"{folder} holds no complete neighbours; run kat density again.")
    names = {name.removesuffix(".npy") for name in manifest["outputs"]}
    arrays = {name: load_array(folder / f"{name}.npy") for name in names & _ARRAYS.keys()}
    _check_arrays(folder, arrays, len(embeddings))
    metric = manifest["options"].get("metric")
    if metric not in ("cosine", "euclidean"):
        raise MismatchError(f"The manifest of {folder} has the metric {metric!r}. {_AGAIN}")
    halves = Halves(*(arrays[n] for n in _HALVES)) if _HALVES[0] in arrays else None
    return Neighbors(
        ids=embeddings.ids,
        indices=arrays["indices"],
        distances=arrays["distances"],
        distinct_distances=arrays.get("spacing", arrays["distances"]),
        multiplicity=arrays["multiplicity"],
        metric=metric,
        halves=halves,
        recall=float(manifest.get("recall", 1.0)),
        source=embeddings,
    )


def _check_arrays(folder: Path, arrays: Mapping[str, np.ndarray], n: int) -> None:
    """Raise MismatchError unless the arrays of a folder are of their types, fit each other and name rows of n."""
    if any(half in arrays for half in _HALVES) and not all(half in arrays for half in _HALVES):
        raise MismatchError(f"{folder} holds some of {', '.join(_HALVES)}, and not all. {_AGAIN}")
    halved = len(arrays[_HALVES[0]]) if _HALVES[0] in arrays and arrays[_HALVES[0]].ndim else 0
    for name, array in arrays.items():
        whole, of_rows, dimensions = _ARRAYS[name]
        rows = n if of_rows else halved
        if array.dtype.kind not in ("iu" if whole else "f") or array.ndim != dimensions or len(array) != rows:
            kind = "whole numbers" if whole else "float32"
            raise MismatchError(
                f"{folder / f'{name}.npy'} is {array.dtype} of shape {array.shape}; expected {kind}, "
                f"{rows:,} rows of {dimensions} dimension{'s' * (dimensions > 1)}. {_AGAIN}"
            )
    for name, least, most in (("indices", 0, n - 1), ("half_rows", 0, n - 1), ("multiplicity", 1, n)):
        if name in arrays and arrays[name].size and not least <= arrays[name].min() <= arrays[name].max() <= most:
            raise MismatchError(f"{folder / f'{name}.npy'} holds numbers outside of {least} to {most:,}. {_AGAIN}")
    for one, other in (("indices", "distances"), ("half_first", "half_second")):
        if one in arrays and arrays[one].shape != arrays[other].shape:
            raise MismatchError(f"{folder}: {one}.npy and {other}.npy are not of one shape. {_AGAIN}")
    for name in {"distances", "spacing", "half_first", "half_second"} & arrays.keys():
        if not all(map(_ascend, _blocks(arrays[name]))):
            raise MismatchError(f"{folder / f'{name}.npy'} holds no distances, nearest first. {_AGAIN}")


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at a time: what a check makes of them is small, and a mapped file is read through once."""
    return (array[start : start + _ROWS] for start in range(0, len(array), _ROWS))


def _ascend(values: np.ndarray) -> bool:
    """Whether rows are finite, from 0 up, and in ascending order."""
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values[:, 1:] >= values[:, :-1]).all())


def _wrong(near: np.ndarray, apart: np.ndarray) -> Iterator[np.ndarray]:
    """Which rows have neighbours that are not there, are themselves, or are out of order, some rows at a time."""
    for start in range(0, len(near), _ROWS):
        others, distances = near[start : start + _ROWS], apart[start : start + _ROWS]
        own = np.arange(start, start + len(others))[:, None]
        strange = ((others < 0) | (others >= len(near)) | (others == own)).any(axis=1)
        yield strange | (~(np.diff(distances, axis=1) >= 0)).any(axis=1)


def check_neighbors(folder: Path, ids: list[str] | None = None) -> str:
    """Check neighbours: nearest first, all of them rows that there are, self left out; return what was proved.

    `ids`, if given, are those of the rows. Raises MismatchError naming the first wrong row.
    """
    near, apart = (load_array(folder / f"{name}.npy", vouched=False) for name in ("indices", "distances"))
    check_array(folder / "distances.npy", apart, (None if ids is None else len(ids), None))
    if near.shape != apart.shape or near.dtype != np.int32:
        raise MismatchError(f"{folder / 'indices.npy'} is {near.dtype} {near.shape}; expected int32 {apart.shape}.")
    wrong = np.concatenate([np.zeros(0, bool), *_wrong(near, apart)])
    if wrong.any():
        row = int(np.argmax(wrong))
        name = "" if ids is None else f" (id {ids[row]})"
        raise MismatchError(f"{folder}: row {row}{name} has neighbours that are itself, nobody, or out of order.")
    if damage := first_damage(folder, readable_manifest(folder) or {}):
        raise MismatchError(f"{folder}: {damage}. Make it again with --overwrite.")
    return f"  {near.shape[1]} neighbours of each row, nearest first, self left out"
