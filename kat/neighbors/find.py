"""The k nearest others of every row: exact, self left out by row index, copies handled once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kat.artifacts import check_ids
from kat.config import one_of, whole_number
from kat.devices import pick_device
from kat.errors import InputError, OptionError
from kat.neighbors.approximate import knn_approximate
from kat.neighbors.exact import knn_query, knn_self
from kat.records import Embeddings, Halves, Neighbors

_ASKED = 2000
"""Rows whose density is measured in two halves."""
_SMALLEST_HALF = 20
_UNIT = 2e-7


def find_neighbors(
    x: Embeddings | np.ndarray,
    k: int = 20,
    metric: str = "cosine",
    center: bool = False,
    device: str = "auto",
    queries: Embeddings | np.ndarray | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    search: str = "exact",
    least_recall: float = 0.98,
) -> Neighbors:
    """The k nearest others of every row of `x` [N, D], nearest first; exact.

    Distances are Euclidean; "cosine" normalises the rows first, after taking off their mean if `center`. With fewer
    than k + 1 rows k shrinks to N − 1 and a warning says so. Identical rows are searched for once and expanded: each
    other copy is a neighbour at distance 0. The search also looks at up to 2,000 rows from two disjoint halves of the
    data (`Neighbors.halves`), so that a density knows its noise.

    With `queries` [M, D] the result has their rows, and `indices` point into `x`; a row of `x` that equals a query is
    a copy of it like any other. `checkpoint` names a file from which a stopped search goes on.

    `search` "approximate" is for very many rows: FAISS, its recall measured, an error under `least_recall`.

    Raises InputError for an empty or wrongly shaped array, a row that is not finite, or (cosine) a zero row,
    naming the first; OptionError for k < 1, an unknown metric, or a device that is not there.
    """
    k = whole_number("k", k)
    one_of("metric", metric, ("cosine", "euclidean"))
    one_of("search", search, ("exact", "approximate"))
    device = pick_device(device)
    for named in (x, queries):
        if isinstance(named, Embeddings):
            check_ids(named.ids, len(named), "the embeddings")
    vectors, mean = prepared(x, metric, center)
    mix = row_hash(vectors)
    first, inverse, counts = distinct_rows(vectors, mix)
    report = _Progress(progress)
    if queries is not None:
        asked, _ = prepared(queries, metric, center, mean)
        if asked.shape[1] != vectors.shape[1]:
            raise InputError(f"Queries have {asked.shape[1]} columns and the rows {vectors.shape[1]}.")
        if search == "approximate":
            raise OptionError("queries are searched for exactly; leave search at exact.")
        return _of_queries(queries, asked, vectors[first], inverse, counts, ids_of(x), k, metric, device, report)
    if k > len(vectors) - 1 > 0:
        warnings.warn(f"k is {len(vectors) - 1}, not {k}: there are only {len(vectors)} rows.", stacklevel=2)
    recall = 1.0
    if search == "approximate" and len(first) > k + 1:
        near, spacing, recall = knn_approximate(vectors[first], k, least_recall)
    else:
        near, spacing = _search(vectors, first, inverse, k, device, report, checkpoint)
    copies = copies_of(inverse, counts)
    indices, distances = expand(near, spacing, inverse, copies, min(k, len(vectors) - 1))
    halves = split_halves(vectors, first, mix[first], k, device)
    source = x if isinstance(x, Embeddings) else None
    return Neighbors(ids_of(x), indices, distances, spacing[inverse], counts[inverse], metric, halves, recall, source)


def ids_of(x: Embeddings | np.ndarray) -> Sequence[str]:
    """The ids of embeddings, or row numbers as text."""
    return x.ids if isinstance(x, Embeddings) else [str(i) for i in range(len(x))]


def prepared(
    x: Embeddings | np.ndarray, metric: str, center: bool, mean: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Checked rows [N, D] float32, centred and normalised as asked, and the mean [D] that was taken off."""
    vectors = checked(x.vectors if isinstance(x, Embeddings) else x)
    # Euclidean distances do not feel a shift, but the rounding of float64 input to float32 does.
    if center or (metric == "euclidean" and vectors.dtype == np.float64):
        mean = vectors.mean(axis=0, dtype=np.float64) if mean is None else mean
        vectors = vectors - mean if vectors.dtype == np.float64 else (vectors - mean).astype(np.float32)
    if metric == "cosine":
        vectors = normalised(vectors)
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, np.float32)
    return finite_rows(vectors), mean


def checked(x: np.ndarray) -> np.ndarray:
    """`x` as an array [N, D] of float64, if it is that, else float32. Raises InputError if it holds other things."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"Vectors are no table of numbers [N, D]: {error}") from None
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"Vectors have shape {array.shape} and type {array.dtype}; expected numbers of shape [N, D].")
    if 0 in array.shape:
        raise InputError(f"Vectors have shape {array.shape}: there is nothing to search.")
    return finite_rows(array if array.dtype == np.float64 else array.astype(np.float32, copy=False))


def finite_rows(array: np.ndarray) -> np.ndarray:
    """The array itself. Raises InputError naming the first row that is not finite in its type."""
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(f"Row {int(np.argmin(finite))} of the vectors holds NaN, infinity, or more than float32 can.")
    return array


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows [N, D] at unit length. Raises InputError for a zero row."""
    largest = np.abs(vectors).max(axis=1).astype(np.float64)
    if not largest.all():
        raise InputError(f"Row {int(np.argmin(largest))} of the vectors is zero, which has no cosine.")
    if vectors.dtype == np.float64:  # whose squares may overflow or vanish
        vectors = vectors / largest[:, None]
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    if vectors.dtype == np.float32 and np.abs(norms - 1).max() < _UNIT:
        return vectors  # unit length as far as float32 goes: no copy
    return (vectors / norms[:, None]).astype(np.float32)


def distinct_rows(vectors: np.ndarray, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row [U] of each distinct vector, in order; the group [N] of every row; and the size [U] of each group.

    Rows are told apart by their `row_hash` [N]; two different rows of one hash are noticed and all rows compared.
    """
    _, first, inverse, counts = np.unique(mix, return_index=True, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    if not (vectors[repeated] == vectors[first[inverse[repeated]]]).all():
        found = np.unique(vectors + np.float32(0), axis=0, return_index=True, return_inverse=True, return_counts=True)
        _, first, inverse, counts = found
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse], counts[order]


class Copies(NamedTuple):
    """The rows of every group of identical vectors: group g is `rows[starts[g] : starts[g + 1]]`, ascending."""

    rows: np.ndarray
    starts: np.ndarray

    def of(self, group: int) -> np.ndarray:
        return self.rows[self.starts[group] : self.starts[group + 1]]


def copies_of(inverse: np.ndarray, counts: np.ndarray) -> Copies:
    """The rows of each group, from the group [N] of every row and the size [U] of every group."""
    return Copies(np.argsort(inverse, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))


def expand(
    near: np.ndarray, spacing: np.ndarray, group: np.ndarray, copies: Copies, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """From neighbours among distinct rows to neighbours among all: a row's own copies first, then each neighbour's.

    `near` and `spacing` [U, k'] belong to the groups, `group` [N] says which group each row is of. Rows of a group
    share one list but for themselves. Returns indices [N, k] int64 and distances [N, k] float32.
    """
    if len(near) == len(group):
        return near[:, :k].astype(np.int64), spacing[:, :k]
    sizes = np.diff(copies.starts)
    lone = (sizes == 1) & (sizes[near] == 1).all(axis=1) & (near.shape[1] >= k)
    indices, distances = np.empty((len(group), k), np.int64), np.empty((len(group), k), np.float32)
    plain = lone[group]  # rows that no copy touches: their groups' neighbours are theirs
    if plain.any():
        first = copies.rows[copies.starts[:-1]]
        indices[plain], distances[plain] = first[near[group[plain], :k]], spacing[group[plain], :k]
    for own in np.flatnonzero(~lone):
        members = copies.of(own)
        found = [members[: k + 1], *(copies.of(g) for g in near[own])]
        apart = np.repeat(np.concatenate([[np.float32(0)], spacing[own]]), [len(f) for f in found])
        row = np.concatenate(found)
        for member in members:
            # Copies beyond k + 1 are not in the list, which then has k others anyway.
            others = row != member
            indices[member], distances[member] = row[others][:k], apart[others][:k]
    return indices, distances


def split_halves(vectors: np.ndarray, first: np.ndarray, mix: np.ndarray, k: int, device: str) -> Halves | None:
    """Distances to the k/2 nearest distinct others in each of two halves; None for fewer than 20 rows a half.

    `first` [U] are the distinct rows and `mix` [U] their hashes. Which half a row is of, and which rows are asked,
    follow from the hash of its vector and not from its place, so that permuting the data changes nothing.
    """
    left = (mix & 1).astype(bool)
    sides = first[left], first[~left]
    if min(map(len, sides)) < _SMALLEST_HALF:
        return None
    asked = np.sort(np.argsort(mix >> np.uint64(1), kind="stable")[:_ASKED])
    h = min(max(1, k // 2), *(len(side) - 1 for side in sides))
    found = []
    for half, side in zip((left, ~left), sides, strict=True):
        distances = knn_query(vectors[first[asked]], vectors[side], h + 1, device=device)[1]
        # A row finds itself, at distance 0, in its own half: distinct rows have no other zero.
        found.append(np.where(half[asked][:, None], distances[:, 1:], distances[:, :-1]))
    return Halves(first[asked], *found)


def row_hash(vectors: np.ndarray) -> np.ndarray:
    """A 64-bit hash [N] of each row's bytes, the same on every machine (multiply and mix, after splitmix64)."""
    odd = np.random.Generator(np.random.PCG64(0)).integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * 2 + 1
    found = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), 8192):
        words = (vectors[start : start + 8192] + np.float32(0)).view(np.uint32).astype(np.uint64)
        found[start : start + 8192] = (words * odd).sum(axis=1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def _of_queries(
    queries: Embeddings | np.ndarray,
    asked: np.ndarray,
    distinct: np.ndarray,
    inverse: np.ndarray,
    counts: np.ndarray,
    targets: Sequence[str],
    k: int,
    metric: str,
    device: str,
    report: _Progress,
) -> Neighbors:
    if k > len(inverse):
        warnings.warn(f"k is {len(inverse)}, not {k}: there are only {len(inverse)} rows.", stacklevel=3)
        k = len(inverse)
    near, spacing = knn_query(asked, distinct, min(k + 1, len(distinct)), device=device, progress=report)
    report.close()
    # Distinct rows: at most the first can equal the query. It is a copy, not a neighbour that measures the place.
    equal = (distinct[near[:, 0]] == asked).all(axis=1)
    multiplicity = np.where(equal, counts[near[:, 0]], 1)
    copies = copies_of(inverse, counts)
    indices, distances = np.empty((len(asked), k), np.int64), np.empty((len(asked), k), np.float32)
    for row in range(len(asked)):
        found = [copies.of(g) for g in near[row]]
        indices[row, :k] = np.concatenate(found)[:k]
        distances[row, :k] = np.repeat(spacing[row], [len(f) for f in found])[:k]
    others = np.where(equal[:, None], spacing[:, 1:], spacing[:, :-1])
    source = queries if isinstance(queries, Embeddings) else None
    return Neighbors(ids_of(queries), indices, distances, others, multiplicity, metric, source=source, targets=targets)


def _search(
    vectors: np.ndarray,
    first: np.ndarray,
    inverse: np.ndarray,
    k: int,
    device: str,
    report: _Progress,
    checkpoint: str | Path | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours among the distinct rows: groups [U, k'] and distances [U, k'], k' = min(k, U − 1)."""
    k = min(k, len(first) - 1)
    if k == 0:
        return np.empty((len(first), 0), np.int64), np.empty((len(first), 0), np.float32)
    if len(first) == len(vectors):
        found = knn_self(vectors, k, device=device, progress=report, checkpoint=checkpoint)
    else:  # the rows stay where they are: a copy of the distinct ones would be as large as the input
        near, apart = knn_self(vectors, k, rows=first, device=device, progress=report, checkpoint=checkpoint)
        found = inverse[near[first]].astype(np.int32), apart[first]
    report.close()
    return found


class _Progress:
    """A bar over tiles, shown from the second second on."""

    def __init__(self, shown: bool):
        self._shown, self._bar = shown, None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            disable = None if self._shown else True
            self._bar = tqdm(total=total, desc="neighbours", unit=" tiles", disable=disable, delay=1)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
