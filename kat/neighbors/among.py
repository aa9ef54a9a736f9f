"""Neighbours among some of the rows that were searched, read off the lists of the search: no second one but for rows
whose lists end too soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kat.config import RunOptions
from kat.executors.base import Launcher
from kat.neighbors.find import distinct_rows, find_neighbors, prepared, row_hash
from kat.records import Neighbors

if TYPE_CHECKING:
    from kat.neighbors.reading import Lists


def neighbors_among(
    neighbors: Neighbors,
    inside: np.ndarray,
    rows: np.ndarray,
    k: int,
    *,
    vectors: np.ndarray,
    device: str = RunOptions.device,
    progress: bool = False,
    launcher: Launcher | None = None,
) -> Neighbors:
    """Return the k nearest others of `rows` [M] among the rows `inside` [S], which ascend; `indices` are places in it.

    A row's list is in the order in which a search among the rows inside would meet them, so that the first k of it that
    are inside are the k nearest. Rows whose lists hold fewer are searched for, exactly. `vectors` [N, D] are what
    `neighbors` were found among; no mean may have been taken off them. Distances to distinct others are to as many as
    there are, k at most. Raises what `find_neighbors` raises.
    """
    from kat.neighbors.reading import Lists, read_off

    group = _groups(neighbors, vectors)
    place = np.full(len(neighbors), -1, np.int64)
    place[inside] = np.arange(len(inside))
    members = np.bincount(group[inside], minlength=len(neighbors))
    k, others = min(k, len(inside)), min(k, int(np.count_nonzero(members)) - 1)
    lists = Lists(
        np.zeros((len(rows), k), np.int64),
        np.zeros((len(rows), k), np.float32),
        np.zeros((len(rows), others), np.float32),
        np.zeros(len(rows), bool),
    )
    read_off(neighbors.indices, neighbors.distances, rows, group=group, place=place, lists=lists)
    late = np.flatnonzero(lists.ended)
    if len(late):
        asked, of = np.unique(group[rows[late]], return_inverse=True)  # one query for all rows of a vector
        near = find_neighbors(
            vectors[inside],
            min(k + 1, len(inside)),
            neighbors.metric,
            False,
            device,
            queries=vectors[asked],
            progress=progress,
            launcher=launcher,
        )
        lists.apart[late] = near.distinct_distances[of, :others]
        _fill(lists, late, near, of, place[rows[late]])
    return Neighbors(
        ids=[neighbors.ids[row] for row in rows],
        indices=lists.indices,
        distances=lists.distances,
        distinct_distances=lists.apart,
        multiplicity=np.maximum(members[group[rows]], 1),
        metric=neighbors.metric,
        recall=neighbors.recall,
        targets=[neighbors.ids[row] for row in inside],
    )


def _groups(neighbors: Neighbors, vectors: np.ndarray) -> np.ndarray:
    """The first row [N] that has a row's vector: only rows with copies are looked at."""
    group = np.arange(len(neighbors))
    copies = np.flatnonzero(np.asarray(neighbors.multiplicity) > 1)
    if len(copies):
        unit, _ = prepared(vectors[copies], neighbors.metric, False)
        distinct = distinct_rows(unit, row_hash(unit))
        group[copies] = copies[distinct.first[distinct.group]]
    return group


def _fill(lists: Lists, late: np.ndarray, near: Neighbors, of: np.ndarray, own: np.ndarray) -> None:
    """Put what was searched for into the lists of `late` rows, themselves left out: `own` is their place inside, or
    −1."""
    indices, distances = near.indices[of], near.distances[of]
    others = indices != own[:, None]
    k = lists.indices.shape[1]
    order = np.argsort(~others, axis=1, kind="stable")[:, :k]  # the row itself goes last
    held = order.shape[1]
    lists.indices[late, :held] = np.take_along_axis(indices, order, 1)
    lists.distances[late, :held] = np.take_along_axis(distances, order, 1)
