"""The k nearest others of every row: exact, self left out by row index, copies handled once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from kat.errors import InputError, OptionError
from kat.records import Embeddings, Neighbors


def find_neighbors(x: Embeddings | np.ndarray, k: int = 20, metric: str = "cosine") -> Neighbors:
    """The k nearest others of every row of `x` [N, D], nearest first.

    Distances are Euclidean; "cosine" normalises the rows first. With fewer than k + 1 rows k shrinks to N − 1 and a
    warning says so.
    Identical rows are searched for once and expanded: each other copy is a neighbour at distance 0.

    Raises InputError for an empty or wrongly shaped array, a row that is not finite, or (cosine) a zero row,
    naming the first; OptionError for k < 1 or an unknown metric.
    """
    if k < 1:
        raise OptionError(f"k is {k}; expected 1 or more.")
    if metric not in ("cosine", "euclidean"):
        raise OptionError(f"metric is {metric!r}; expected cosine or euclidean.")
    vectors = checked(x.vectors if isinstance(x, Embeddings) else x)
    ids: Sequence[str] = x.ids if isinstance(x, Embeddings) else [str(i) for i in range(len(vectors))]
    if metric == "cosine":
        vectors = normalised(vectors)
    if k > len(vectors) - 1 > 0:
        warnings.warn(f"k is {len(vectors) - 1}, not {k}: there are only {len(vectors)} rows.", stacklevel=2)
    first, inverse, counts = distinct_rows(vectors)
    near, spacing = _search(vectors[first], k)
    indices, distances = _expand(near, spacing, inverse, counts, min(k, len(vectors) - 1))
    return Neighbors(ids, indices, distances, spacing[inverse], counts[inverse], metric)


def checked(x: np.ndarray) -> np.ndarray:
    """`x` as a C-contiguous float32 [N, D]. Raises InputError if it is not a table of finite numbers."""
    array = np.asarray(x)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"Vectors have shape {array.shape} and type {array.dtype}; expected numbers of shape [N, D].")
    if 0 in array.shape:
        raise InputError(f"Vectors have shape {array.shape}: there is nothing to search.")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(f"Row {int(np.argmin(finite))} of the vectors holds NaN or infinity.")
    return np.ascontiguousarray(array, dtype=np.float32)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows [N, D] at unit length. Raises InputError for a zero row."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    if not norms.all():
        raise InputError(f"Row {int(np.argmin(norms))} of the vectors is zero, which has no cosine.")
    return (vectors / norms[:, None]).astype(np.float32)


def distinct_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row [U] of each distinct vector, in order; the group [N] of every row; and the size [U] of each group."""
    positive = vectors + np.float32(0)  # −0.0 and 0.0 are one number
    as_bytes = np.ascontiguousarray(positive).view(np.dtype((np.void, positive.shape[1] * 4))).ravel()
    _, first, inverse, counts = np.unique(as_bytes, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse], counts[order]


def _search(vectors: np.ndarray, k: int, tile: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours among distinct rows: indices [U, k'] and distances [U, k'], k' = min(k, U − 1)."""
    import torch

    u = len(vectors)
    k = min(k, u - 1)
    indices, distances = np.empty((u, k), np.int64), np.empty((u, k), np.float32)
    if k == 0:
        return indices, distances
    x = torch.from_numpy(vectors - vectors.mean(axis=0))
    half_norms = 0.5 * (x * x).sum(1)
    for start in range(0, u, tile):
        rows = torch.arange(start, min(start + tile, u))
        closeness = x[rows] @ x.T - half_norms
        closeness[rows - start, rows] = -torch.inf
        candidates = closeness.topk(min(k + 32, u - 1), dim=1).indices.numpy()
        exact = _exact(vectors, rows.numpy(), candidates)
        # Equal distances are ordered by row, so that the result does not depend on the tiles.
        order = np.lexsort((candidates, exact), axis=1)[:, :k]
        indices[start : start + len(rows)] = np.take_along_axis(candidates, order, 1)
        distances[start : start + len(rows)] = np.take_along_axis(exact, order, 1)
    return indices, distances


def _exact(vectors: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Distances [B, C] by difference in float64: the form with products loses near duplicates to rounding."""
    found = np.empty(candidates.shape, np.float64)
    for i, row in enumerate(rows):
        apart = vectors[candidates[i]].astype(np.float64) - vectors[row].astype(np.float64)
        found[i] = np.sqrt(np.einsum("cd,cd->c", apart, apart))
    return found


def _expand(
    near: np.ndarray, spacing: np.ndarray, inverse: np.ndarray, counts: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """From distinct rows to all rows: a row's own copies first, then each neighbour's copies, k in all."""
    n = len(inverse)
    if len(counts) == n:
        return near[:, :k], spacing[:, :k]
    by_group = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    indices, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    for row in range(n):
        own = inverse[row]
        others = by_group[starts[own] : starts[own + 1]]
        found, apart = [others[others != row][:k]], [np.zeros(min(len(others) - 1, k), np.float32)]
        have = len(found[0])
        for group, distance in zip(near[own], spacing[own], strict=True):
            if have >= k:
                break
            copies = by_group[starts[group] : starts[group + 1]][: k - have]
            found.append(copies)
            apart.append(np.full(len(copies), distance, np.float32))
            have += len(copies)
        indices[row], distances[row] = np.concatenate(found), np.concatenate(apart)
    return indices, distances
