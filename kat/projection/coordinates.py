"""Two coordinates of every opening, from the neighbours that are known.

1. Rows that share a vector are one row of the map (`groups`); the others come back around it at the end.
2. Above 50,000 of them a seeded sample is laid out; `lists_among` finds its members' neighbours in the sample.
3. UMAP lays these out (`layout.py`), or principal components do (`components.py`).
4. The rest goes to the mean of its neighbours that have a place (`place`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kat.errors import InputError, MismatchError, MissingExtraError, first_words
from kat.neighbors.exact import knn_query, knn_self
from kat.neighbors.find import prepared
from kat.parameters import one_of, whole_number
from kat.projection.components import principal_components
from kat.projection.layout import lay_out, load_umap, starting_places
from kat.records import OPENING, Neighbors, Unit

COMPONENTS, UMAP = "principal components", "umap"
NEAREST = 15
"""Neighbours that a layout is made from, as UMAP's own default."""
_LEAST_ROWS = 30
"""Distinct rows under which a layout shows nothing that two components do not."""
_FEW = 1 / 3
"""The share of rows up to which neighbours are searched for row by row."""
_ROWS = 65_536
_ANCHORS, _ROUNDS = 5, 3
_CHECKED, _NEAR_ENOUGH = 100, 0.01
_DOT = 5e-4
"""How far the first duplicate lies from its row, as a share of the map's width; the m-th lies √m times as far."""


@dataclass(frozen=True)
class Projection:
    """Two coordinates of every row: `xy` [N, 2] float32, finite.

    `method` is "umap" or "principal components", `fitted` the rows that the layout was computed from, and `told` what
    a reader of the map is told of how it came about, in one or more sentences.
    """

    xy: np.ndarray
    method: str
    fitted: int
    told: str


def project(
    vectors: np.ndarray,
    neighbors: Neighbors,
    seed: int = 0,
    *,
    method: str = "auto",
    center: bool = False,
    most: int = 50_000,
    unit: Unit = OPENING,
) -> Projection:
    """Return two coordinates of every row of `vectors` [N, D], whose nearest others are `neighbors`.

    `method` "auto" is UMAP where umap-learn is installed and there are 30 distinct rows, else the first two principal
    components; `told` says which, and why. UMAP is computed from a sample of at most `most` distinct rows, drawn by
    `seed`. The same arguments give the same coordinates, whatever the number of threads. `center` says whether the
    mean was taken off before the neighbours were searched for, and `unit` what a row is called.

    Raises InputError for vectors and neighbours that do not belong together, MissingExtraError where "umap" is asked
    for by name and cannot be used, OptionError for another method.
    """
    one_of("method", method, ("auto", UMAP, COMPONENTS))
    seed, most = whole_number("seed", seed, 0), whole_number("most", most)
    _check(vectors, neighbors)
    if method == COMPONENTS:
        return _by_components(vectors, "", unit)
    group = groups(neighbors)
    distinct = np.unique(group)
    if len(distinct) < _LEAST_ROWS:
        why = f"UMAP needs {_LEAST_ROWS} distinct {unit.several}; there are {len(distinct)}."
        return _by_components(vectors, why, unit)
    try:
        umap = load_umap()
    except MissingExtraError as error:
        if method == UMAP:
            raise
        return _by_components(vectors, str(error), unit)
    fitted = distinct
    if len(distinct) > most:
        fitted = np.sort(np.random.default_rng(seed).choice(distinct, max(most, _LEAST_ROWS), replace=False))
    metric = _Metric(vectors, neighbors.metric, center)
    metric.check(neighbors)
    near, apart = lists_among(fitted, group, neighbors, metric)
    try:
        places = lay_out(umap, starting_places(vectors, fitted), near, apart, seed)
    except (ValueError, TypeError, ZeroDivisionError, np.linalg.LinAlgError) as error:  # of a version not known here
        return _by_components(vectors, f"UMAP failed: {first_words(error)}", unit)
    if not np.isfinite(places).all():
        return _by_components(vectors, "UMAP gave coordinates that are not finite.", unit)
    xy = _around(place(fitted, places, group, neighbors, metric), group)
    told = _told(len(vectors), len(distinct), len(fitted), near.shape[1], unit=unit)
    return Projection(xy, UMAP, len(fitted), told)


def _told(rows: int, distinct: int, fitted: int, nearest: int, *, unit: Unit) -> str:
    told = f"UMAP of {unit.count(fitted)}, from the {nearest} nearest neighbours of each."
    if fitted < distinct:
        told += (
            f" The other {distinct - fitted:,} lie at the mean of up to {_ANCHORS} neighbours, weighted by 1/distance."
        )
    if distinct < rows:
        told += f" {unit.several.capitalize()} that share a vector with another, {rows - distinct:,}, lie around it."
    return told


def _by_components(vectors: np.ndarray, why: str, unit: Unit) -> Projection:
    places = principal_components(vectors).astype(np.float32)
    told = f"The first two principal components of {unit.count(len(vectors))}. {why}".strip()
    return Projection(places, COMPONENTS, len(vectors), told)


def _check(vectors: np.ndarray, neighbors: Neighbors) -> None:
    """Raise InputError for arrays that do not belong together."""
    if getattr(vectors, "ndim", 0) != 2 or 0 in vectors.shape:
        raise InputError(f"Vectors have shape {getattr(vectors, 'shape', '()')}; expected numbers of shape [N, D].")
    if len(vectors) != len(neighbors):
        raise InputError(f"There are {len(vectors)} vectors and {len(neighbors)} rows of neighbours; expected as many.")
    if neighbors.targets is not None:
        raise InputError("The neighbours are those of queries; expected those of the rows themselves.")
    if neighbors.k and not (neighbors.indices.min() >= 0 and neighbors.indices.max() < len(vectors)):
        raise InputError(f"The neighbours name rows outside 0 to {len(vectors) - 1}.")


class _Metric:
    """Vectors as their neighbours were searched for, prepared only where they are needed."""

    def __init__(self, vectors: np.ndarray, metric: str, center: bool) -> None:
        self._vectors, self._metric, self._center = vectors, metric, center
        self._mean = vectors.mean(axis=0, dtype=np.float64) if center else None

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [M, D] float32."""
        return prepared(self._vectors[rows], self._metric, self._center, self._mean)[0]

    def check(self, neighbors: Neighbors) -> None:
        """Raise MismatchError if distances are not those of the vectors; looks at 100 rows."""
        rows = np.unique(np.linspace(0, len(neighbors) - 1, _CHECKED).astype(np.int64))
        apart = np.linalg.norm(self.rows(rows) - self.rows(neighbors.indices[rows, 0]), axis=1)
        stored = neighbors.distances[rows, 0]
        if (wrong := np.abs(apart - stored) > _NEAR_ENOUGH * np.maximum(1, stored)).any():
            at = int(np.argmax(wrong))
            raise MismatchError(
                f"Row {rows[at]} lies {stored[at]:.4g} from its nearest neighbour by the neighbours, and"
                f" {apart[at]:.4g} by the vectors: they are of other vectors, or searched for with another setting of"
                " center."
            )


def groups(neighbors: Neighbors) -> np.ndarray:
    """Return the first row [N] that shares each row's vector: its own number where no earlier one does.

    A list begins with the row's duplicates, the first k + 1 of them at most, so that the first of all is among them.
    """
    first = np.arange(len(neighbors))
    for start in range(0, len(neighbors) if neighbors.k else 0, _ROWS):
        part = slice(start, start + _ROWS)
        same = np.where(neighbors.distances[part] == 0, neighbors.indices[part], len(neighbors))
        first[part] = np.minimum(first[part], same.min(axis=1))
    return first


def lists_among(
    fitted: np.ndarray, group: np.ndarray, neighbors: Neighbors, metric: _Metric
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest others among the `fitted` rows [M], as places in `fitted`, and distances: [M, q] each.

    The stored lists, less what is not fitted, begin with just these, and are used where q are left. For other rows
    they are searched for, exactly: of a sample of one row in twenty, 20 stored neighbours leave one.
    """
    q = min(NEAREST, len(fitted) - 1)
    near, apart = np.zeros((len(fitted), q), np.int64), np.zeros((len(fitted), q), np.float32)
    short = np.ones(len(fitted), bool)
    for start in range(0, len(fitted) if neighbors.k >= q else 0, _ROWS):
        at, distances, kept = _stored(fitted[start : start + _ROWS], fitted, group, neighbors)
        enough = np.flatnonzero(kept.sum(axis=1) >= q)
        order = np.argsort(~kept[enough], axis=1, kind="stable")[:, :q]
        near[start + enough] = np.take_along_axis(at[enough], order, 1)
        apart[start + enough] = np.take_along_axis(distances[enough], order, 1)
        short[start + enough] = False
    if short.any():
        vectors = metric.rows(fitted)
        if short.mean() > _FEW:
            near, apart = knn_self(vectors, q)
        else:
            near[short], apart[short] = _searched(vectors, np.flatnonzero(short), q)
    return near.astype(np.int64), apart


def _stored(
    rows: np.ndarray, fitted: np.ndarray, group: np.ndarray, neighbors: Neighbors
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places in `fitted`, distances, and which to keep, [M, k] each, of the stored neighbours of `rows` [M]."""
    first, distances = group[neighbors.indices[rows]], neighbors.distances[rows]
    at = np.minimum(np.searchsorted(fitted, first), len(fitted) - 1)
    kept = (fitted[at] == first) & (distances > 0)
    kept[:, 1:] &= first[:, 1:] != first[:, :-1]  # a neighbour's duplicates follow it
    return at, distances, kept


def _searched(vectors: np.ndarray, asked: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the q nearest others of the rows `asked` [A] of distinct vectors [M, D], and their distances."""
    near, apart = knn_query(vectors[asked], vectors, q + 1)
    others = near != asked[:, None]
    others[others.all(axis=1), -1] = False
    return near[others].reshape(-1, q), apart[others].reshape(-1, q)


def place(
    fitted: np.ndarray, places: np.ndarray, group: np.ndarray, neighbors: Neighbors, metric: _Metric
) -> np.ndarray:
    """Return coordinates [N, 2] of all rows from those [M, 2] of the `fitted` ones; duplicates lie on their first row.

    A row lies at the mean of its 5 nearest neighbours that are fitted, or of fewer, weighted by 1 / distance. One that
    has none takes those of its neighbours that now have a place, for three rounds; the nearest fitted row after that.
    """
    xy = np.zeros((len(group), 2))
    xy[fitted] = places
    is_placed = np.zeros(len(group), bool)
    is_placed[fitted] = True
    waiting = np.flatnonzero((group == np.arange(len(group))) & ~is_placed)
    for _ in range(_ROUNDS):
        done = [_mean_of_placed(xy, is_placed, rows, group, neighbors) for rows in _parts(waiting)]
        new = np.concatenate([rows for rows, _ in done]) if done else waiting
        if not len(new):
            break
        xy[new] = np.concatenate([means for _, means in done])
        is_placed[new] = True  # only now: what a round gives must not depend on the order of its rows
        waiting = waiting[~is_placed[waiting]]
    if len(waiting):
        among = metric.rows(fitted)
        for rows in _parts(waiting):
            xy[rows] = places[knn_query(metric.rows(rows), among, 1)[0][:, 0]]
    return xy[group]


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]


def _mean_of_placed(
    xy: np.ndarray, is_placed: np.ndarray, rows: np.ndarray, group: np.ndarray, neighbors: Neighbors
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of `rows` that have neighbours with a place, and the weighted means [·, 2] of these places."""
    first, distances = group[neighbors.indices[rows]], neighbors.distances[rows].astype(np.float64)
    kept = is_placed[first] & (distances > 0)
    kept[:, 1:] &= first[:, 1:] != first[:, :-1]
    kept &= np.cumsum(kept, axis=1) <= _ANCHORS
    some = kept.any(axis=1)
    weights = np.where(kept[some], 1 / np.where(kept[some], distances[some], 1), 0)
    return rows[some], np.einsum("nk,nkc->nc", weights, xy[first[some]]) / weights.sum(axis=1, keepdims=True)


def _around(xy: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return coordinates [N, 2] float32 with the duplicates of a row in a disc around it, so that a crowd is seen.

    The m-th duplicate lies at √m dots in the direction of m golden angles (Vogel, "A better way to construct the
    sunflower head", 1979): evenly spread, and the same every time.
    """
    order = np.argsort(group, kind="stable")
    counts = np.unique(group, return_counts=True)[1]
    number = np.empty(len(group))
    number[order] = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    angle = number * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(number) * _DOT * np.ptp(xy, axis=0).max()
    return (xy + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
