"""The pairs of a file without their text: what weights, splits and joins need to know of each."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kat.data.repeats import pair_parts
from kat.records import Pair

DUPLICATE = "exact duplicate of an earlier pair"


@dataclass(frozen=True, eq=False)
class PairColumns:
    """P pairs in the order of their file.

    `pair_ids` are distinct: one that came before got "#2", "#3", … (`renamed` counts them). `opening` [P] are rows of
    `opening_ids`, which stand in order of first appearance; `opening_chars` [X] is the length of each. `duplicate` [P]
    marks pairs whose context, tools, chosen and rejected were met before. Lengths are in characters. `labels` are lists
    [P] of the columns that the pairs' reader was asked for.
    """

    pair_ids: list[str]
    row: np.ndarray
    src: list[str]
    opening: np.ndarray
    opening_ids: list[str]
    opening_chars: np.ndarray
    chosen_chars: np.ndarray
    rejected_chars: np.ndarray
    duplicate: np.ndarray
    renamed: int
    labels: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pair_ids)


def collect_columns(pairs: Iterable[Pair]) -> PairColumns:
    """Read pairs through, keeping some 300 bytes of each."""
    names, openings = _Names(), dict[str, int]()
    known: dict[str, str] = {}  # one string a label, not one a pair
    src: list[str] = []
    labels: dict[str, list[str]] = {}
    digests: set[bytes] = set()
    opening, opening_chars, numbers, duplicate = array("q"), array("q"), array("q"), array("b")
    for pair in pairs:
        names.add(pair.id)
        place = openings.setdefault(pair.prefix.id, len(openings))
        if place == len(opening_chars):
            opening_chars.append(len(pair.prefix.opening))
        opening.append(place)
        numbers.extend((pair.row, len(pair.chosen), len(pair.rejected)))
        src.append(known.setdefault(pair.src, pair.src))
        for name, label in pair.labels.items():
            labels.setdefault(name, []).append(known.setdefault(label, label))
        digest = _digest(pair)
        duplicate.append(digest in digests)
        digests.add(digest)
    row, chosen, rejected = np.asarray(numbers, np.int64).reshape(-1, 3).T
    return PairColumns(
        pair_ids=names.given,
        row=row,
        src=src,
        opening=np.asarray(opening, np.int64),
        opening_ids=list(openings),
        opening_chars=np.asarray(opening_chars, np.int64),
        chosen_chars=chosen,
        rejected_chars=rejected,
        duplicate=np.asarray(duplicate, bool),
        renamed=names.renamed,
        labels=labels,
    )


class _Names:
    """Ids made distinct, in order: the first keeps its own."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.renamed = 0
        self._taken: set[str] = set()
        self._used: Counter[str] = Counter()

    def add(self, pair_id: str) -> None:
        """Take the next id, renamed if it stood before."""
        name = pair_id
        while name in self._taken:  # also by an id that was "x#2" from the start
            self._used[pair_id] += 1
            name = f"{pair_id}#{self._used[pair_id] + 1}"
        self.renamed += name != pair_id
        self._taken.add(name)
        self.given.append(name)


def _digest(pair: Pair) -> bytes:
    """128 bits of all that a pair says."""
    digest = hashlib.blake2b(digest_size=16)
    for part in pair_parts(pair):
        text = part.encode()
        digest.update(len(text).to_bytes(8, "little"))  # so that ("ab", "c") is not ("a", "bc")
        digest.update(text)
    return digest.digest()
