"""Openings that are near-duplicates by their own text, whatever encoder measured their density.

A cosine means another thing to every encoder: at 0.95 a decoder whose cosines are all high joins what merely shares a
topic, and an encoder trained on sentences misses a typing slip. What two texts share does not depend on it: they are
near-duplicates if at least JACCARD of their shingles (runs of LETTERS letters) are common to both (Broder, "On the
resemblance and containment of documents", 1997). A text's set is sampled by keeping its SKETCH smallest hashes
(bottom-k sketches; Cohen & Kaplan, PODC 2007): shorter texts are compared exactly, longer ones in the same memory.
Pairs are found through the rarest shingles of each, one of which any two similar sets share (prefix filtering;
Chaudhuri, Ganti & Kaushik, ICDE 2006). The order of rows changes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kat.data.openings import opening_id
from kat.records import Pair, Prefix

LETTERS = 5
JACCARD = 0.8
SKETCH = 256
BOILERPLATE = 0.5
"""A shingle that more than this share of the openings hold tells them not apart, and is left out."""
WINDOW = 16
"""Where many openings share a shingle, each is compared with this many that follow it in the order of sketches."""

_NONE = np.uint32(0xFFFFFFFF)


class Sketches:
    """The sampled shingles of openings, by id: at most 4 · SKETCH bytes each, whatever the length of the texts."""

    def __init__(self) -> None:
        self._of: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, opening: str, text: str) -> None:
        """Keep the sketch of an opening's text; the first that an id is given stays."""
        if opening not in self._of:
            self._of[opening] = np.unique(shingles(text))[:SKETCH].copy()

    def watch(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Yield pairs as they come, and keep the sketch of each new opening."""
        for pair in pairs:
            if pair.prefix.id not in self._of:
                self.add(pair.prefix.id, asked_text(pair.prefix))
            yield pair

    def table(self, ids: Sequence[str]) -> SketchTable:
        """Return the sketches of some openings [X]. Raises KeyError for an id that was never added."""
        return SketchTable([self._of[one] for one in ids], ids)


class SketchTable:
    """Sketches of X openings as rows `hashes` [X, SKETCH] uint32, sorted and filled up with the largest number; `size`
    [X] counts them, and `reach` [X] is the largest hash up to which a row lacks none."""

    def __init__(self, sketches: list[np.ndarray], ids: Sequence[str]):
        self.ids = ids
        self.size = np.asarray([len(one) for one in sketches], np.int64)
        self.hashes = np.full((len(sketches), SKETCH), _NONE, np.uint32)
        for row, one in enumerate(sketches):
            self.hashes[row, : len(one)] = one
        # Read before boilerplate goes: of a text that was cut, nothing is known beyond its last hash.
        self.reach = np.where(self.size == SKETCH, self.hashes[:, -1], _NONE - np.uint32(1))
        self._drop_boilerplate()

    def jaccard(self, a: np.ndarray, b: np.ndarray, least: float = 0.0) -> np.ndarray:
        """Return the share [E] of shingles that the rows `a` [E] and `b` [E] have in common, among all of either.

        What is seen to be under `least` may be 0.

        Exact for texts of fewer than SKETCH different shingles; else estimated from the hashes that both rows are
        complete up to, with a standard error of about √(J·(1 − J) / SKETCH).
        """
        from kat.pair_weights import kernels

        return kernels.shared_parts(self.hashes, self.reach, self.size, a=a, b=b, least=least)

    def near_duplicates(self, least: float = JACCARD) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of rows, [E] and [E], that have at least this share of shingles in common; both directions."""
        element, row = self._rare(least)
        near = [np.empty(0, np.int64)]
        n = len(self.ids)
        for step in range(1, WINDOW + 1):
            same = np.flatnonzero(element[step:] == element[:-step])
            if not len(same):
                break
            a, b = row[same], row[same + step]
            # Sets whose sizes differ by more cannot have so much in common; those of cut texts say nothing of size.
            small, large = np.minimum(self.size[a], self.size[b]), np.maximum(self.size[a], self.size[b])
            likely = small >= least * large
            ends = np.unique(np.minimum(a, b)[likely] * n + np.maximum(a, b)[likely])
            near.append(ends[self.jaccard(ends // n, ends % n, least) >= least])
        ends = np.unique(np.concatenate(near))
        a, b = ends // n, ends % n
        return np.concatenate([a, b]), np.concatenate([b, a])

    def _drop_boilerplate(self) -> None:
        """Leave out the shingles that most openings share, unless an opening has no others."""
        known = self.hashes != _NONE
        _, place, counts = np.unique(self.hashes[known], return_inverse=True, return_counts=True)
        common = np.zeros(self.hashes.shape, bool)
        common[known] = (counts > max(BOILERPLATE * len(self.ids), 2))[place]
        common[common.sum(axis=1) == self.size] = False
        self.hashes[common] = _NONE
        self.hashes.sort(axis=1)
        self.size = self.size - common.sum(axis=1)

    def _rare(self, least: float) -> tuple[np.ndarray, np.ndarray]:
        """The rarest shingles of each row, [F], and their rows [F]: by shingle, then in the order of sketches.

        Two sets of sizes a and b that have ≥ least of either in common share one of the first a − ⌈least·a⌉ + 1 and
        b − ⌈least·b⌉ + 1, whatever the one order that both are put in.
        """
        row, column = np.nonzero(self.hashes != _NONE)
        hashes = self.hashes[row, column]
        _, place, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        order = np.lexsort((hashes, counts[place], row))  # by row, the rarest first
        rank = np.arange(len(row)) - np.repeat(np.cumsum(self.size) - self.size, self.size)
        prefix = self.size - np.ceil(least * self.size - 1e-9).astype(np.int64) + 1
        order = order[(rank < prefix[row]) & (counts[place[order]] > 1)]
        position = np.empty(len(self.ids), np.int64)
        position[np.lexsort((np.asarray(self.ids), *self.hashes.T[7::-1]))] = np.arange(len(self.ids))
        order = order[np.lexsort((position[row[order]], place[order]))]
        return place[order], row[order]


def shingles(text: str) -> np.ndarray:
    """Return a 32-bit hash of every run of LETTERS letters of a text [S], case, marks and spacing made alike.

    A text without letters or digits is taken as it is; one that is shorter than a run is one shingle.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", folded) or folded.split()
    letters = np.frombuffer(f" {' '.join(words)} ".encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    letters = np.pad(letters, (0, max(LETTERS - len(letters), 0)))
    mixed = np.zeros(len(letters) - LETTERS + 1, np.uint64)
    for offset in range(LETTERS):
        mixed = _mix(mixed + letters[offset : len(letters) - LETTERS + 1 + offset])
    return np.minimum((mixed >> np.uint64(32)).astype(np.uint32), _NONE - np.uint32(1))


def asked_text(prefix: Prefix) -> str:
    """Return what is compared of a prefix: its opening, or where its id is not the opening's, all that the user says.

    Never the system's words, which many conversations share.
    """
    if prefix.id == opening_id(prefix.opening):
        return prefix.opening
    return "\n".join(message["content"] for message in prefix.messages if message["role"] == "user")


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit numbers (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
