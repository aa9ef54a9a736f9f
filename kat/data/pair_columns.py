"""The pairs of a file without their text: what weights, splits and joins need to know of each."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kat.records import Pair

DUPLICATE = "exact duplicate of an earlier pair"


@dataclass(frozen=True, eq=False)
class Judged:
    """P pairs in the order of their file.

    `pair_ids` are distinct: one that came before got "#2", "#3", … (`renamed` counts them). `opening` [P] are rows of
    `opening_ids`, which stand in order of first appearance; `opening_chars` [X] is the length of each. `duplicate` [P]
    marks pairs whose prefix, chosen and rejected were met before. Lengths are in characters.
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

    def __len__(self) -> int:
        return len(self.pair_ids)


def collect_judged(pairs: Iterable[Pair]) -> Judged:
    """Read pairs through, keeping some 300 bytes of each."""
    names, openings = _Names(), {}
    sources: dict[str, str] = {}
    src, seen = [], set()
    opening, opening_chars, numbers, duplicate = array("q"), array("q"), array("q"), array("b")
    for pair in pairs:
        names.add(pair.id)
        place = openings.setdefault(pair.prefix.id, len(openings))
        if place == len(opening_chars):
            opening_chars.append(len(pair.prefix.opening))
        opening.append(place)
        numbers.extend((pair.row, len(pair.chosen), len(pair.rejected)))
        src.append(sources.setdefault(pair.src, pair.src))
        digest = _digest(pair)
        duplicate.append(digest in seen)
        seen.add(digest)
    row, chosen, rejected = np.asarray(numbers, np.int64).reshape(-1, 3).T
    return Judged(
        names.given,
        row,
        src,
        np.asarray(opening, np.int64),
        list(openings),
        np.asarray(opening_chars, np.int64),
        chosen,
        rejected,
        np.asarray(duplicate, bool),
        names.renamed,
    )


class _Names:
    """Ids made distinct, in order: the first keeps its own."""

    def __init__(self):
        self.given: list[str] = []
        self.renamed = 0
        self._taken: set[str] = set()
        self._used: Counter[str] = Counter()

    def add(self, wanted: str) -> None:
        name = wanted
        while name in self._taken:
            self._used[wanted] += 1
            name = f"{wanted}#{self._used[wanted] + 1}"
        self.renamed += name != wanted
        self._taken.add(name)
        self.given.append(name)


def _digest(pair: Pair) -> bytes:
    """128 bits of a pair's whole text."""
    found = hashlib.blake2b(digest_size=16)
    for part in (*(p for m in pair.prefix.messages for p in (m["role"], m["content"])), pair.chosen, pair.rejected):
        text = part.encode()
        found.update(len(text).to_bytes(8, "little"))
        found.update(text)
    return found.digest()
