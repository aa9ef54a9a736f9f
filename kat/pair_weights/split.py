"""Which openings train and which validate: whole groups of near-duplicates, so that none is on both sides.

Near-duplicate prompts across a split make a validation set agree with training for the wrong reason, and most so where
prompts are crowded (Lee et al., "Deduplicating training data makes language models better", ACL 2022, find overlaps of
this kind in common validation sets). Pure functions of ids, neighbours and options: the order of rows changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from kat.errors import OptionError
from kat.pair_config import PairOptions
from kat.records import Neighbors

LARGEST = 0.1
"""The share of the validation part that one group may be: one crowd must not be what is measured."""


def near_duplicates(neighbors: Neighbors, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of rows, [E] and [E], of which the second is among the first's k nearest, at this cosine or more.

    Both directions are listed where both are found. Raises OptionError for a cosine outside (0, 1].
    """
    rows, ranks = np.nonzero(within(neighbors.distances, cosine))
    return rows, neighbors.indices[rows, ranks]


def within(distances: np.ndarray, cosine: float) -> np.ndarray:
    """Return whether distances between unit vectors, of any shape, are those of this cosine or more: δ² = 2 − 2·cosine.

    Raises OptionError for a cosine outside (0, 1].
    """
    if not 0 < cosine <= 1:
        raise OptionError(f"group_cosine is {cosine}; expected a number above 0 and at most 1.")
    # Rounding of float32 distances must not part vectors that are equal.
    return np.square(distances, dtype=np.float64) <= 2 - 2 * cosine + 1e-6


def connected(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """Return the component [n] of each of n rows under the edges a[i] — b[i], named by its smallest row.

    Every row points to a smaller row of its component, edges pull both ends to the smaller pointer, and pointers are
    followed to their ends, until nothing moves (after Shiloach & Vishkin, Journal of Algorithms 3, 1982).
    """
    root = np.arange(n)
    while True:
        before = root.copy()
        low = np.minimum(root[a], root[b])
        for end in (a, b):
            np.minimum.at(root, root[end], low)
        while (root[root] != root).any():
            root = root[root]
        if (root == before).all():
            return root


def split_groups(
    ids: Sequence[str], group: np.ndarray, size: np.ndarray, share: float, seed: int = PairOptions.seed
) -> np.ndarray:
    """Return which openings [X] are for validation: about `share` of all pairs, in whole groups.

    `group` [X] names each opening's group and `size` [X] counts its pairs. Groups come in the order of a hash of the
    seed and their ids and are taken as long as they fit; none that is more than LARGEST of the validation part is. So
    the order of rows changes nothing, and a few more openings change little.

    Raises OptionError for a share outside [0, 1), or if no group is small enough.
    """
    if not 0 <= share < 1:
        raise OptionError(f"validation_share is {share}; expected a number from 0 to below 1.")
    _, place = np.unique(group, return_inverse=True)
    pairs = np.bincount(place, size).astype(np.int64)
    room = share * pairs.sum()
    taken = pairs == 0  # they take no room
    # A few pairs in all: a group is then small enough if it is a single opening's single pair.
    largest = max(room * LARGEST, 1)
    for number in np.argsort(_group_keys(ids, place, seed), kind="stable").tolist():
        if room < 1:
            break
        if 0 < pairs[number] <= min(room, largest):
            taken[number] = True
            room -= pairs[number]
    if share and not taken.any():
        raise OptionError(
            f"No group is small enough for a validation share of {share:g} of {pairs.sum():,} pairs: the smallest has "
            f"{pairs.min():,}. Give a larger --validation_share, --split opening or --split none; a larger "
            "--group_cosine, if you gave one, makes groups smaller."
        )
    return taken[place]


def expected_leak(rows: np.ndarray, n: int, share: float) -> np.ndarray:
    """Return how likely [n] each row, if it validates, has a near-duplicate in training when rows are split one by one.

    `rows` [E] are the first ends of `near_duplicates`. With d near-duplicates that validate with probability `share`
    each, 1 − share^d.
    """
    return 1 - np.power(share, np.bincount(rows, minlength=n))


def _group_keys(ids: Sequence[str], place: np.ndarray, seed: int) -> np.ndarray:
    """A number for each group that its ids and the seed decide: the smallest of theirs."""
    digests = bytearray()
    for opening_id in ids:
        digests += hashlib.blake2b(f"{seed}:{opening_id}".encode(), digest_size=8).digest()
    keys = np.frombuffer(digests, ">u8")
    smallest = np.full(place.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, place, keys)
    return smallest
