"""The k nearest others of every row: exact, self left out by row index, duplicates searched for once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kat.arrays import check_ids
from kat.config import DensityOptions, RunOptions
from kat.devices import pick_device
from kat.errors import InputError, OptionError
from kat.executors.base import Launcher
from kat.neighbors.approximate import knn_approximate
from kat.neighbors.exact import knn_query, knn_self
from kat.parameters import explained_keywords, one_of, whole_number
from kat.records import Embeddings, Halves, Neighbors
from kat.terminal import bar_off

_ASKED = 2000
"""Rows whose density is measured in two halves."""
_SMALLEST_HALF = 20
_UNIT = 2e-7


@explained_keywords
def find_neighbors(
    x: Embeddings | np.ndarray,
    k: int = DensityOptions.k,
    metric: str = DensityOptions.metric,
    center: bool = DensityOptions.center,
    device: str = RunOptions.device,
    *,
    queries: Embeddings | np.ndarray | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    search: str = DensityOptions.search,
    least_recall: float = DensityOptions.least_recall,
    launcher: Launcher | None = None,
) -> Neighbors:
    """Return the k nearest others of every row of `x` [N, D], nearest first; exact.

    Distances are Euclidean; "cosine" normalises the rows first, after taking off their mean if `center`. With fewer
    than k + 1 rows k shrinks to N − 1 and a warning says so. Identical rows are searched for once and expanded: each
    other duplicate is a neighbour at distance 0. The search also looks at up to 2,000 rows from two disjoint halves of
    the data (`Neighbors.halves`), so that a density knows its noise.

    With `queries` [M, D] the result has their rows, and `indices` point into `x`; a row of `x` that equals a query is
    a duplicate of it like any other. `checkpoint` names a file from which a stopped search goes on.

    With a `launcher` the workers of a cluster search; the result is the same.

    `search` "approximate" is for very many rows: FAISS, its recall measured, an error under `least_recall`.

    Raises InputError for an empty or wrongly shaped array, a row that is not finite, or (cosine) a zero row,
    naming the first; OptionError for k < 1, an unknown metric or option, or a device that is not there.

    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> kat.find_neighbors(vectors, k=10)
    Neighbors(500 rows, k 10, cosine, exact)
    """
    k = whole_number("k", k)
    one_of("metric", metric, ("cosine", "euclidean"))
    one_of("search", search, ("exact", "approximate"))
    device = pick_device(device if launcher is None else "cpu")  # workers have the devices
    for named in (x, queries):
        if isinstance(named, Embeddings):
            check_ids(named.ids, len(named), "the embeddings")
    vectors, mean = prepared(x, metric, center)
    mix = row_hash(vectors)
    distinct = distinct_rows(vectors, mix)
    bar = _Progress(progress, len(vectors) if queries is None else len(queries))
    if queries is not None:
        asked = _prepared_queries(queries, vectors, metric, center, mean)
        if search == "approximate":
            raise OptionError("queries are searched for exactly; leave search at exact.")
        if k > len(vectors):
            warnings.warn(f"k is {len(vectors)}, not {k}: there are only {len(vectors)} rows.", stacklevel=3)
        near = _of_queries(
            asked, vectors[distinct.first], distinct, min(k, len(vectors)), device=device, bar=bar, launcher=launcher
        )
        source = queries if isinstance(queries, Embeddings) else None
        return Neighbors(ids_of(queries), *near, metric=metric, source=source, targets=ids_of(x))
    if k > len(vectors) - 1 > 0:
        warnings.warn(f"k is {len(vectors) - 1}, not {k}: there are only {len(vectors)} rows.", stacklevel=3)
    recall = 1.0
    if search == "approximate" and len(distinct.first) > k + 1:
        groups, apart, recall = knn_approximate(vectors[distinct.first], k, least_recall)
    else:
        how = {"device": device, "progress": bar, "checkpoint": checkpoint, "launcher": launcher}
        groups, apart = _search(vectors, distinct, k, how)
        bar.close()
    indices, distances = expand(groups, apart, distinct, min(k, len(vectors) - 1))
    return Neighbors(
        ids=ids_of(x),
        indices=indices,
        distances=distances,
        distinct_distances=apart[distinct.group],
        multiplicity=distinct.counts[distinct.group],
        metric=metric,
        halves=split_halves(vectors, distinct.first, mix[distinct.first], k, device=device, launcher=launcher),
        recall=recall,
        source=x if isinstance(x, Embeddings) else None,
    )


def ids_of(x: Embeddings | np.ndarray) -> Sequence[str]:
    """Return the ids of embeddings, or row numbers as text."""
    return x.ids if isinstance(x, Embeddings) else [str(i) for i in range(len(x))]


def prepared(
    x: Embeddings | np.ndarray, metric: str, center: bool, mean: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return checked rows [N, D] float32, centred and normalised as asked, and the mean [D] that was taken off."""
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
    """Return `x` as an array [N, D], float64 if it is that, else float32. Raises InputError for other things."""
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
    """Return the array itself. Raises InputError naming the first row that is not finite in its type."""
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(f"Row {int(np.argmin(finite))} of the vectors holds NaN, infinity, or more than float32 can.")
    return array


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return rows [N, D] at unit length. Raises InputError for a zero row."""
    largest = np.abs(vectors).max(axis=1).astype(np.float64)
    if not largest.all():
        raise InputError(f"Row {int(np.argmin(largest))} of the vectors is zero, which has no cosine.")
    if vectors.dtype == np.float64:  # whose squares may overflow or vanish
        vectors = vectors / largest[:, None]
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    if vectors.dtype == np.float32 and np.abs(norms - 1).max() < _UNIT:
        return vectors  # unit length as far as float32 goes: save the memory
    return (vectors / norms[:, None]).astype(np.float32)


class Distinct(NamedTuple):
    """The U distinct vectors of N rows, each a group of duplicates, in the order of their first rows."""

    first: np.ndarray  # int64 [U] first row of each group
    group: np.ndarray  # int64 [N] group of every row
    counts: np.ndarray  # int64 [U] rows of each group


def distinct_rows(vectors: np.ndarray, mix: np.ndarray) -> Distinct:
    """Return the groups of identical rows of `vectors` [N, D].

    Rows are told apart by their `row_hash` [N]; two different rows of one hash are noticed and all rows compared.
    """
    _, first, group, counts = np.unique(mix, return_index=True, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[group] > 1)
    if not (vectors[repeated] == vectors[first[group[repeated]]]).all():
        unique = np.unique(vectors + np.float32(0), axis=0, return_index=True, return_inverse=True, return_counts=True)
        _, first, group, counts = unique
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Distinct(first[order], rank[group], counts[order])


class Members(NamedTuple):
    """The rows of every group of duplicates: group g is `rows[starts[g] : starts[g + 1]]`, ascending."""

    rows: np.ndarray
    starts: np.ndarray

    def of(self, group: int) -> np.ndarray:
        """Return the rows of a group."""
        return self.rows[self.starts[group] : self.starts[group + 1]]


def members_of(distinct: Distinct) -> Members:
    """Return the rows of each group."""
    return Members(np.argsort(distinct.group, kind="stable"), np.concatenate([[0], np.cumsum(distinct.counts)]))


def expand(near: np.ndarray, apart: np.ndarray, distinct: Distinct, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn neighbours among groups into neighbours among rows: a row's duplicates first, then each neighbour's rows.

    `near` [U, k'] are the nearest groups of every group and `apart` [U, k'] their distances. Rows of a group share one
    list but for themselves. Returns indices [N, k] int64 and distances [N, k] float32.
    """
    group = distinct.group
    if len(near) == len(group):
        return near[:, :k].astype(np.int64), apart[:, :k]
    members = members_of(distinct)
    lone = (distinct.counts == 1) & (distinct.counts[near] == 1).all(axis=1) & (near.shape[1] >= k)
    indices, distances = np.empty((len(group), k), np.int64), np.empty((len(group), k), np.float32)
    plain = lone[group]  # rows that no duplicate touches: their groups' neighbours are theirs
    if plain.any():
        indices[plain] = distinct.first[near[group[plain], :k]]
        distances[plain] = apart[group[plain], :k]
    for own in np.flatnonzero(~lone).tolist():
        rows = members.of(own)
        # Duplicates beyond k + 1 are left out of the list, which then has k others anyway.
        parts = [rows[: k + 1], *(members.of(g) for g in near[own])]
        listed = np.concatenate(parts)
        steps = np.repeat(np.concatenate([[np.float32(0)], apart[own]]), [len(part) for part in parts])
        for row in rows:
            others = listed != row
            indices[row], distances[row] = listed[others][:k], steps[others][:k]
    return indices, distances


def split_halves(
    vectors: np.ndarray, first: np.ndarray, mix: np.ndarray, k: int, *, device: str, launcher: Launcher | None = None
) -> Halves | None:
    """Return distances to the k/2 nearest distinct others in each of two halves; None for fewer than 20 rows a half.

    `first` [U] are the distinct rows and `mix` [U] their hashes. Which half a row is of, and which rows are asked,
    follow from the hash of its vector and not from its place, so that permuting the data changes nothing.
    """
    left = (mix & 1).astype(bool)
    sides = first[left], first[~left]
    if min(map(len, sides)) < _SMALLEST_HALF:
        return None
    asked = np.sort(np.argsort(mix >> np.uint64(1), kind="stable")[:_ASKED])
    h = min(max(1, k // 2), *(len(side) - 1 for side in sides))
    both = []
    for half, side in zip((left, ~left), sides, strict=True):
        distances = knn_query(vectors[first[asked]], vectors[side], h + 1, device=device, launcher=launcher)[1]
        # A row finds itself, at distance 0, in its own half: distinct rows have no other zero.
        both.append(np.where(half[asked][:, None], distances[:, 1:], distances[:, :-1]))
    return Halves(first[asked], *both)


def row_hash(vectors: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash [N] of each row's bytes, the same on every machine (multiply and mix, after splitmix64)."""
    odd = np.random.Generator(np.random.PCG64(0)).integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * 2 + 1
    mix = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), 8192):  # adding 0 makes −0 and 0 the same bytes
        words = (vectors[start : start + 8192] + np.float32(0)).view(np.uint32).astype(np.uint64)
        mix[start : start + 8192] = (words * odd).sum(axis=1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mix = (mix ^ (mix >> np.uint64(shift))) * np.uint64(factor)
    return mix ^ (mix >> np.uint64(31))


def _prepared_queries(
    queries: Embeddings | np.ndarray, vectors: np.ndarray, metric: str, center: bool, mean: np.ndarray | None
) -> np.ndarray:
    """Queries [M, D] prepared as the rows were, whose mean is taken off. Raises InputError for another width."""
    asked, _ = prepared(queries, metric, center, mean)
    if asked.shape[1] != vectors.shape[1]:
        raise InputError(f"Queries have {asked.shape[1]} columns and the rows {vectors.shape[1]}.")
    return asked


def _of_queries(
    asked: np.ndarray,
    vectors: np.ndarray,
    distinct: Distinct,
    k: int,
    *,
    device: str,
    bar: _Progress,
    launcher: Launcher | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours of queries [M, D] among distinct vectors [U, D], as `Neighbors` has them.

    Returns indices and distances [M, k], distances to distinct others [M, k'] and the multiplicity [M].
    """
    near, apart = knn_query(asked, vectors, min(k + 1, len(vectors)), device=device, progress=bar, launcher=launcher)
    bar.close()
    # Distinct rows: at most the first can equal the query. It is a duplicate, not a neighbour that measures the place.
    equal = (vectors[near[:, 0]] == asked).all(axis=1)
    multiplicity = np.where(equal, distinct.counts[near[:, 0]], 1)
    members = members_of(distinct)
    indices, distances = np.empty((len(asked), k), np.int64), np.empty((len(asked), k), np.float32)
    for row in range(len(asked)):
        parts = [members.of(g) for g in near[row]]
        indices[row, :k] = np.concatenate(parts)[:k]
        distances[row, :k] = np.repeat(apart[row], [len(part) for part in parts])[:k]
    others = np.where(equal[:, None], apart[:, 1:], apart[:, :-1])
    return indices, distances, others, multiplicity


def _search(vectors: np.ndarray, distinct: Distinct, k: int, how: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours among the distinct rows: groups [U, k'] and distances [U, k'], k' = min(k, U − 1).

    `how` are options of `knn_self`, which change no result.
    """
    first = distinct.first
    k = min(k, len(first) - 1)
    if k == 0:
        return np.empty((len(first), 0), np.int64), np.empty((len(first), 0), np.float32)
    if len(first) == len(vectors):
        near, apart = knn_self(vectors, k, **how)
    else:  # the rows stay where they are: the distinct ones in an array of their own would double the memory
        near, apart = knn_self(vectors, k, rows=first, **how)
        near, apart = distinct.group[near[first]].astype(np.int32), apart[first]
    return near, apart


class _Progress:
    """A bar over rows, shown from the second second on. A tile is comparisons of many rows, so the rows that stand
    there are the share of the comparisons that is done."""

    def __init__(self, shown: bool, rows: int) -> None:
        self._shown, self._rows = shown, rows
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=self._rows, desc="neighbors", unit=" texts", disable=bar_off(self._shown), delay=1)
        self._bar.update(self._rows * done // total - self._bar.n)

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
