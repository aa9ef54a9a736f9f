"""Density from the mean cosine similarity to the k nearest: what the project's origin weighed by."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from kat.density.dimension import Duplicates
from kat.density.estimators import Estimator
from kat.errors import MismatchError, OptionError
from kat.records import Embeddings, Neighbors


def inverse_cosine(distances: np.ndarray, dimension: float, duplicates: Duplicates = 1) -> np.ndarray:
    """Return log of the mean cosine c to the k nearest, [N], from distances between unit vectors: cos = 1 − δ²/2.

    The project's origin weighed by the inverse of this mean. δ² shrinks with density as density^(−2/d), so m
    duplicates make 1 − c smaller by m^(−2/d). Means at or under 0 count as the smallest above it.
    """
    return _log_cosine(1 - np.square(distances, dtype=np.float64).mean(axis=1) / 2, dimension, duplicates)


def of_vectors(neighbors: Neighbors, k: int, embeddings: Embeddings | None) -> Callable[..., np.ndarray]:
    """Return what takes (dimension, duplicates) to the log density [N], from the cosines of the vectors themselves.

    Raises OptionError for queries and where there are no vectors, MismatchError for another number of them.
    """
    return partial(_log_cosine, _mean_cosines(neighbors, k, embeddings))


def _log_cosine(cosine: np.ndarray, dimension: float, duplicates: Duplicates) -> np.ndarray:
    cosine = 1 - (1 - cosine) * np.power(np.float64(duplicates), -2 / dimension)
    floor = cosine[cosine > 0].min() if (cosine > 0).any() else 1.0
    return np.log(np.maximum(cosine, floor))


def _mean_cosines(neighbors: Neighbors, k: int, embeddings: Embeddings | None) -> np.ndarray:
    """Mean cosine [N] of every row with its neighbours, one neighbour rank at a time to keep memory at [N, D]."""
    if neighbors.targets is not None:
        raise OptionError("inverse_cosine of queries needs cosine neighbours: search with metric='cosine'.")
    source = neighbors.source if embeddings is None else embeddings
    if source is None:
        raise OptionError("inverse_cosine with Euclidean neighbours needs the vectors: pass embeddings=.")
    x = np.asarray(source.vectors if isinstance(source, Embeddings) else source, np.float32)
    if len(x) != len(neighbors):
        raise MismatchError(f"There are {len(x):,} embeddings and {len(neighbors):,} rows of neighbours.")
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    total = np.zeros(len(unit))
    for rank in range(k):
        total += np.einsum("nd,nd->n", unit, unit[neighbors.indices[:, rank]])
    return total / k


PLUGIN = Estimator(
    name="inverse_cosine",
    help="The mean cosine similarity to the k nearest distinct others.",
    log_density=inverse_cosine,
    of_vectors=of_vectors,
    recovers_euclidean=False,  # a cosine says nothing of points that are no directions
)
