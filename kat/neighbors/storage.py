"""Neighbours on disk: plain arrays in one folder, so that other weights need no new search."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kat.artifacts import check_array, first_damage, load_array, read_manifest
from kat.errors import MismatchError
from kat.records import Embeddings, Halves, Neighbors
from kat.run_folder import NEIGHBOR_FILES


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
    """Read the neighbours of a folder, for the embeddings they were searched among. Raises MismatchError."""
    manifest = read_manifest(folder)
    if manifest is None or not set(NEIGHBOR_FILES) <= set(manifest.get("outputs") or ()):
        raise MismatchError(f"{folder} holds no complete neighbours; run kat density again.")
    names = {name.removesuffix(".npy") for name in manifest["outputs"]}
    arrays = {name: np.asarray(load_array(folder / f"{name}.npy")) for name in names}
    if len(arrays["indices"]) != len(embeddings):
        raise MismatchError(f"{folder} has {len(arrays['indices']):,} rows, and there are {len(embeddings):,} vectors.")
    halves = Halves(*(arrays[n] for n in ("half_rows", "half_first", "half_second"))) if "half_rows" in arrays else None
    return Neighbors(
        ids=embeddings.ids,
        indices=arrays["indices"].astype(np.int64),
        distances=arrays["distances"],
        distinct_distances=arrays.get("spacing", arrays["distances"]),
        multiplicity=arrays["multiplicity"].astype(np.int64),
        metric=manifest["options"]["metric"],
        halves=halves,
        recall=manifest.get("recall", 1.0),
        source=embeddings,
    )


def check_neighbors(folder: Path, ids: list[str] | None = None) -> str:
    """Check neighbours: nearest first, all of them rows that there are, self left out; return what was proved.

    `ids`, if given, are those of the rows. Raises MismatchError naming the first wrong row.
    """
    near, apart = load_array(folder / "indices.npy"), load_array(folder / "distances.npy")
    check_array(folder / "distances.npy", apart, (None if ids is None else len(ids), None))
    if near.shape != apart.shape or near.dtype != np.int32:
        raise MismatchError(f"{folder / 'indices.npy'} is {near.dtype} {near.shape}; expected int32 {apart.shape}.")
    n, rows = len(near), np.arange(len(near))[:, None]
    wrong = ((near < 0) | (near >= n) | (near == rows)).any(axis=1) | (~(np.diff(apart, axis=1) >= 0)).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        name = "" if ids is None else f" (id {ids[row]})"
        raise MismatchError(f"{folder}: row {row}{name} has neighbours that are itself, nobody, or out of order.")
    if damage := first_damage(folder, read_manifest(folder) or {}):
        raise MismatchError(f"{folder}: {damage}. Make it again with --overwrite.")
    return f"  {near.shape[1]} neighbours of each row, nearest first, self left out"
