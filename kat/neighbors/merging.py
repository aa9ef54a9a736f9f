"""Compiled kernels that hand candidates from the lists of one process to those of another."""

import numpy as np

from kat.compiled import kernel, kernel_flags
from kat.neighbors.kernels import Lists, Search, compact

FLAGS = kernel_flags(__file__)


@kernel(**FLAGS)
def settle(lists: Lists, search: Search, first: int, last: int, rank: int) -> int:
    """Drop what a limit of a rank rules out from the lists of positions first..last; return how many are left."""
    left = 0
    for p in range(first, last):
        if lists.counts[p] > max(rank, search.k if rank == 0 else 1):
            compact(lists, p, search, rank)
        limit, stay = lists.limits[p], 0
        for c in range(lists.counts[p]):
            lists.keys[p, stay] = lists.keys[p, c]
            stay += np.int32(lists.keys[p, c] >> 32) <= limit
        lists.counts[p] = stay
        left += stay
    return left


@kernel(**FLAGS)
def gather(lists: Lists, first: int, last: int, starts: np.ndarray, keys: np.ndarray) -> None:
    """Copy the candidates of positions first..last end to end into keys, in which position p begins at starts[p]."""
    for p in range(first, last):
        for c in range(lists.counts[p]):
            keys[starts[p] + c] = lists.keys[p, c]


@kernel(**FLAGS)
def take_in(
    lists: Lists, search: Search, first: int, counts: np.ndarray, keys: np.ndarray, limits: np.ndarray, rank: int
) -> None:
    """Offer candidates that were gathered elsewhere to the lists of the positions from `first` on.

    Position first + i gets the next counts[i] of keys, all that lie within limits[i]; rank: as in `scan`.
    """
    at = 0
    for i in range(counts.shape[0]):
        p = first + i
        lists.limits[p] = min(lists.limits[p], limits[i])
        for c in range(at, at + counts[i]):
            if np.int32(keys[c] >> 32) <= lists.limits[p]:
                lists.keys[p, lists.counts[p]] = keys[c]
                lists.counts[p] += 1
                if lists.counts[p] == lists.full[p]:
                    compact(lists, p, search, rank)
        at += counts[i]
