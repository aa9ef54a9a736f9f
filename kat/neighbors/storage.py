"""Neighbours on disk: plain arrays in one folder, so that other weights need no new search."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kat.artifacts import load_array, read_manifest
from kat.errors import MismatchError
from kat.records import Embeddings, Halves, Neighbors

NEIGHBOR_FILES = ("indices.npy", "distances.npy", "multiplicity.npy")


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
    if manifest is None:
        raise MismatchError(f"{folder} holds no finished neighbours; run kat density again.")
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
