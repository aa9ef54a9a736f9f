"""Clusters of openings: spherical k-means on their embeddings.

Dhillon & Modha, "Concept decompositions for large sparse text data using clustering", Machine Learning 42, 2001: each
row goes to the centre of the highest cosine, each centre becomes the mean direction of its rows. First centres are
drawn as k-means++ does (Arthur & Vassilvitskii, SODA 2007), by 1 − cosine. The order of rows changes nothing: rows are
taken in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kat.data.texts import text_column
from kat.parameters import whole_number

_STARTS, _ROUNDS = 5, 100
_TILE = 65_536
"""Rows of one product, so that similarities [rows, clusters] stay small however many rows there are."""


def cluster_openings(
    vectors: np.ndarray, ids: Sequence[str], clusters: int, seed: int, among: np.ndarray | None = None
) -> np.ndarray:
    """Return the cluster [N] of each row of `vectors` [N, D], which are of unit length; the largest cluster is 0.

    Centres are nearest from the rows `among` [N] bool alone, all of them by default; the others join the nearest. There
    are fewer clusters where there are fewer distinct rows. Of five draws of first centres the one that ends at the best
    fit is taken: 2 · N · D · clusters operations a round, 100 rounds each at most.

    Raises OptionError for fewer than one cluster.
    """
    clusters = whole_number("clusters", clusters)
    own = np.arange(len(ids)) if among is None else np.flatnonzero(among)
    own = own[text_column(ids).take(own).order()]
    rows = np.ascontiguousarray(vectors[own], np.float32)
    draw = np.random.default_rng(seed)
    _, centres = max((_grown(rows, clusters, draw) for _ in range(_STARTS)), key=lambda fit: fit[0])
    size = np.bincount(_nearest(rows, centres)[0], minlength=len(centres))
    nearest, _ = _nearest(np.asarray(vectors, np.float32), centres)
    return np.argsort(np.argsort(-size, kind="stable"), kind="stable")[nearest]


def _grown(rows: np.ndarray, clusters: int, draw: np.random.Generator) -> tuple[float, np.ndarray]:
    """Return the sum of cosines to the nearest centres that one draw of first centres ends at, and those centres."""
    centres = _first_centres(rows, clusters, draw)
    place, similarity = _nearest(rows, centres)
    for _ in range(_ROUNDS):
        centres = _means(rows, place, centres)
        before, (place, similarity) = place, _nearest(rows, centres)
        empty = np.setdiff1d(np.arange(len(centres)), place)
        for cluster, far in zip(empty, np.argsort(similarity, kind="stable"), strict=False):
            centres[cluster], place[far] = rows[far], cluster  # what fits worst begins a cluster of its own
        if not len(empty) and (place == before).all():
            break
    return float(similarity.sum(dtype=np.float64)), centres


def _first_centres(rows: np.ndarray, clusters: int, draw: np.random.Generator) -> np.ndarray:
    """Draw rows as first centres, each by how far it is from those before; fewer if no other row is left."""
    chosen = [int(draw.integers(len(rows)))]
    far = np.maximum(1 - rows @ rows[chosen[0]], 0)
    while len(chosen) < clusters:
        far[far < 1e-6] = 0  # rounding: the same direction
        if not (total := float(far.sum(dtype=np.float64))):
            break
        chosen.append(int(np.searchsorted(np.cumsum(far, dtype=np.float64), draw.random() * total, side="right")))
        far = np.minimum(far, np.maximum(1 - rows @ rows[chosen[-1]], 0))
    return rows[chosen]


def _nearest(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre [N] of the highest cosine of each row, and that cosine [N]."""
    place, similarity = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _TILE):
        part = rows[start : start + _TILE] @ centres.T
        place[start : start + _TILE] = part.argmax(axis=1)
        similarity[start : start + _TILE] = part.max(axis=1)
    return place, similarity


def _means(rows: np.ndarray, place: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the mean direction of each cluster's rows; one without a direction keeps its centre."""
    sums = np.zeros(centres.shape, np.float64)
    for start in range(0, len(rows), _TILE):
        own = place[start : start + _TILE]
        member = np.zeros((len(centres), len(own)), np.float32)
        member[own, np.arange(len(own))] = 1
        sums += member @ rows[start : start + _TILE]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 1e-9, sums / np.maximum(length, 1e-9), centres).astype(np.float32)
