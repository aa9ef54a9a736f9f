"""Approximate neighbours for very many rows, through FAISS, with their recall measured against the exact search.

An inverted file (Jégou, Douze & Schmid 2011) looks at the rows of the nearest cells only. How many cells is found by
doubling until a sample of rows gets its true neighbours; a second sample, not used for that, gives the recall said.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kat.config import DensityOptions
from kat.devices import cpu_cores
from kat.errors import MismatchError, MissingExtraError
from kat.neighbors.exact import knn_query

SAMPLE = 500
"""Rows of each of the two samples."""
_TRAINED_ON = 64  # rows a cell, as FAISS advises at least 39
_SEARCHED_AT_ONCE = 16_384


def knn_approximate(
    x: np.ndarray, k: int, least_recall: float = DensityOptions.least_recall, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the neighbours of x [N, D] float32: indices [N, k] int64, distances [N, k] float32, and their recall.

    Self is left out by row index; distances of the rows found are exact, by difference in float64.

    Raises MissingExtraError without FAISS, MismatchError if no number of cells reaches `least_recall`.
    """
    index = _index(x, seed)
    tuning, measuring = _samples(len(x), seed)
    truth = _truth(x, tuning, k)
    index.nprobe = 8
    while recall(_nearest(index, x, tuning, k)[1], truth) < min(1.0, least_recall + 0.005):
        if index.nprobe >= index.nlist:
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)
    measured = recall(_nearest(index, x, measuring, k)[1], _truth(x, measuring, k))
    if measured < least_recall:
        raise MismatchError(
            f"The approximate search has a recall of {measured:.4f}, under {least_recall}. Weights would suffer: "
            "search exactly, or say --least_recall."
        )
    indices, distances = np.empty((len(x), k), np.int64), np.empty((len(x), k), np.float32)
    for start in range(0, len(x), _SEARCHED_AT_ONCE):
        rows = np.arange(start, min(start + _SEARCHED_AT_ONCE, len(x)))
        indices[rows], distances[rows] = _nearest(index, x, rows, k)
    return indices, distances, measured


def recall(distances: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of distances [S, k] that are at most the true k-th distance [S]; ties count as found."""
    return float((distances <= truth[:, None] * (1 + 1e-6) + 1e-12).mean())


def _index(x: np.ndarray, seed: int) -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("The approximate search needs FAISS. Type: pip install 'faiss-cpu>=1.8'") from None
    cells = max(1, min(int(4 * math.sqrt(len(x))), len(x) // _TRAINED_ON))
    quantizer = faiss.IndexFlatL2(x.shape[1])
    index = faiss.IndexIVFFlat(quantizer, x.shape[1], cells)  # holds a reference to the quantizer
    if faiss.omp_get_max_threads() > cpu_cores():  # FAISS counts the machine's, not a container's share of them
        faiss.omp_set_num_threads(cpu_cores())
    index.cp.seed, index.cp.max_points_per_centroid = seed + 1, 4 * _TRAINED_ON
    index.train(x)
    index.add(x)
    return index


def _samples(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed).permutation(n)[: 2 * SAMPLE]
    return drawn[::2], drawn[1::2]


def _truth(x: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The exact k-th distance of some rows, self left out (rows are distinct, so self alone is at distance 0)."""
    return knn_query(x[rows], x, k + 1)[1][:, k].astype(np.float64)


def _nearest(index: Any, x: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    near = index.search(x[rows], k + 1)[1]
    # Self goes by its index; a row that was not found among its own neighbours loses its last instead.
    own = near == rows[:, None]
    own[~own.any(axis=1), -1] = True
    near = near[~own].reshape(len(rows), k)
    distances = np.empty(near.shape)
    for i, row in enumerate(rows):
        apart = x[near[i]].astype(np.float64) - x[row]
        distances[i] = np.where(near[i] < 0, np.inf, np.sqrt(np.einsum("kd,kd->k", apart, apart)))
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(near, order, 1), np.take_along_axis(distances, order, 1)
