"""The compiled reading of stored lists: which of a row's neighbours are inside, nearest first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kat.compiled import kernel, kernel_flags


class Lists(NamedTuple):
    """Of M rows, to be filled: `indices` and `distances` [M, k], `apart` [M, k'] to distinct others, and which lists
    `ended` [M] before these were full."""

    indices: np.ndarray
    distances: np.ndarray
    apart: np.ndarray
    ended: np.ndarray


@kernel(**kernel_flags(__file__))
def read_off(
    indices: np.ndarray, distances: np.ndarray, rows: np.ndarray, group: np.ndarray, place: np.ndarray, lists: Lists
) -> None:
    """Fill the lists with what is inside of those of `rows`: `place` [N] is −1 elsewhere.

    Rows of one vector stand side by side in a list, at one distance, so that a change of group is another vector.
    """
    k, others = lists.indices.shape[1], lists.apart.shape[1]
    for m in range(len(rows)):
        row = rows[m]
        listed, distinct, last = 0, 0, group[row]
        for rank in range(indices.shape[1]):
            other = indices[row, rank]
            if place[other] < 0:
                continue
            if listed < k:
                lists.indices[m, listed] = place[other]
                lists.distances[m, listed] = distances[row, rank]
                listed += 1
            if group[other] != last:
                last = group[other]
                if distinct < others:
                    lists.apart[m, distinct] = distances[row, rank]
                    distinct += 1
            if listed == k and distinct == others:
                break
        lists.ended[m] = listed < k or distinct < others
