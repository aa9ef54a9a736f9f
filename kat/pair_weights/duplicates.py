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
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kat.data.openings import opening_id
from kat.pair_weights.id_numbers import IdNumbers
from kat.records import Pair, Prefix

if TYPE_CHECKING:
    from kat.pair_weights.kernels import Rarest

LETTERS = 5
JACCARD = 0.8
SKETCH = 256
BOILERPLATE = 0.5
"""A shingle that more than this share of the openings hold tells them not apart, and is left out."""
WINDOW = 16
"""Where many openings share a shingle, each is compared with this many that follow it in the order of sketches."""
ORDERED = 8
"""Sketches are put in order by this many of their smallest hashes, then by id."""
PARTS = 16
"""All hashes are counted in so many passes, and keys sorted in so many parts: memory for each."""
BLOCK = 1 << 16
"""So many hashes are one part, if there are no more."""
PENDING = 1 << 20
"""Pairs that are found before they are put in order."""


class Sketches:
    """The sampled shingles of openings, by id: 4 bytes for each different shingle of a text, 4 · SKETCH at most, and
    some 60 beside them (its id, its length, room to grow), whatever the length of the texts."""

    def __init__(self) -> None:
        self._ids = IdNumbers()
        self._hashes = array("I")
        self._lengths = array("h")

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, opening: str, text: str) -> None:
        """Keep the sketch of an opening's text; the first that an id is given stays."""
        if opening not in self._ids:
            self._keep(opening, text)

    def watch(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Yield pairs as they come, and keep the sketch of each new opening."""
        for pair in pairs:
            if pair.prefix.id not in self._ids:
                self._keep(pair.prefix.id, asked_text(pair.prefix))
            yield pair

    def table(self, ids: Sequence[str]) -> SketchTable:
        """Return the sketches of some openings [X]. Raises KeyError for an id that was never added."""
        numbers = self._ids.numbers(ids)
        lengths = np.array(self._lengths, np.int16)
        start = np.cumsum(lengths, dtype=np.int64) - lengths
        return SketchTable(np.asarray(self._hashes), start[numbers], lengths[numbers], ids)

    def _keep(self, opening: str, text: str) -> None:
        from kat.pair_weights.text_kernels import sketch_runs

        sketch = sketch_runs(_letters(text), LETTERS, SKETCH)
        try:
            self._hashes.frombytes(sketch.tobytes())
        except BufferError:  # a table looks at the array, which cannot grow where it is
            self._hashes = self._hashes[:]
            self._hashes.frombytes(sketch.tobytes())
        self._lengths.append(len(sketch))
        self._ids.add(opening)


class SketchTable:
    """Sketches of X openings, ready to be compared.

    They lie in `hashes` [H] uint32, which are only read: those of row r are the `length` [X] int16 from `start` [X] on,
    ascending. An opening takes 4 bytes for each hash, and some 270 while near-duplicates are found: 700 in all at 108
    hashes, measured with a million openings of 112 letters, and up to 200 more where no two texts have a shingle in
    common. Each pair that is found takes 56.
    """

    def __init__(self, hashes: np.ndarray, start: np.ndarray, length: np.ndarray, ids: Sequence[str]):
        from kat.pair_weights.kernels import Rows

        self.ids = ids
        dropped = np.zeros(len(hashes) // 8 + 1, np.uint8)
        self.rows = Rows(hashes, start, length=length, size=length.copy(), dropped=dropped, full=SKETCH)
        self._drop_boilerplate()

    def jaccard(self, a: np.ndarray, b: np.ndarray, least: float = 0.0) -> np.ndarray:
        """Return the share [E] of shingles that the rows `a` [E] and `b` [E] have in common, among all of either.

        What is seen to be under `least` may be 0.

        Exact for texts of fewer than SKETCH different shingles; else estimated from the hashes that both rows are
        complete up to, with a standard error of about √(J·(1 − J) / SKETCH).
        """
        from kat.pair_weights import kernels

        return kernels.shared_parts(self.rows, a, b, float(least))

    def near_duplicates(self, least: float = JACCARD) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of rows, [E] and [E], that have at least this share of shingles in common; both directions."""
        from kat.pair_weights import kernels

        n = len(self.ids)
        order = self._order()
        rarest = self._rarest(least)
        signs = kernels.signatures(self.rows, order)
        # A slot or two for each row: most pairs that meet again do so before others took their slots.
        memo = np.zeros(1 << max(n, 2).bit_length(), np.int64)
        near, ends = _Distinct(), np.empty(min(PENDING, WINDOW * n) + WINDOW, np.int64)
        for keys in self._keys(rarest, order):
            at = 0
            while at < len(keys):
                at, pairs = kernels.near_pairs(
                    self.rows,
                    order,
                    signs,
                    keys=keys,
                    first=at,
                    window=WINDOW,
                    least=float(least),
                    memo=memo,
                    ends=ends,
                )
                near.add(ends[:pairs])
        a, b = np.divmod(near.numbers(), n)
        return np.concatenate([a, b]), np.concatenate([b, a])

    def _drop_boilerplate(self) -> None:
        """Leave out the shingles that most openings share, unless an opening has no others."""
        from kat.pair_weights import kernels

        most = max(BOILERPLATE * len(self.ids), 2.0)
        heavy = kernels.bucket_sizes(self.rows) > most
        if heavy.any():
            slot = np.where(heavy, np.cumsum(heavy) - 1, -1).astype(np.int16)
            kernels.drop_common(self.rows, slot, int(heavy.sum()), most)

    def _order(self) -> np.ndarray:
        """The rows [X] uint32 in the order of their first hashes, then of their ids."""
        from kat.pair_weights import kernels

        order = np.arange(len(self.ids), dtype=np.uint32)
        tied, run = np.arange(len(order)), np.zeros(len(order), np.int64)  # places in `order` that are still alike
        for skip in range(0, ORDERED + 1, 2):
            rows = order[tied]
            if skip < ORDERED:
                keys = kernels.leading(self.rows, rows, skip)
            else:
                keys = np.asarray([self.ids[row] for row in rows.tolist()], str)
            by = np.lexsort((keys, run))
            order[tied], keys = rows[by], keys[by]
            differs = np.ones(len(by), bool)
            differs[1:] = (keys[1:] != keys[:-1]) | (run[1:] != run[:-1])
            run = np.cumsum(differs)
            is_tied = ~(differs & np.append(differs[1:], True))
            tied, run = tied[is_tied], run[is_tied]
        return order

    def _rarest(self, least: float) -> Rarest:
        """The rarest shingles of each row.

        Two sets of sizes a and b that have ≥ least of either in common share one of the first a − ⌈least·a⌉ + 1 and
        b − ⌈least·b⌉ + 1, whatever the one order that both are put in.
        """
        from kat.pair_weights import kernels

        n, size = len(self.ids), self.rows.size.astype(np.int64)
        first = np.zeros(n + 1, np.int64)
        np.cumsum(np.clip(size - np.ceil(least * size - 1e-9).astype(np.int64) + 1, 0, size), out=first[1:])
        rarest = kernels.Rarest(
            first, np.zeros(n, np.int16), held=np.zeros(first[-1], np.uint32), place=np.zeros(first[-1], np.uint8)
        )
        cursor, bits = np.zeros(n, np.int16), 10
        table = np.empty((1 << bits, 2), np.uint32)
        for _, high, _ in _ranges(kernels.bucket_sizes(self.rows)):
            table[:] = 0
            while not kernels.count_hashes(self.rows, cursor, high, table, shift=32 - bits):
                bits += 1
                table = np.zeros((1 << bits, 2), np.uint32)
            kernels.take_rarest(self.rows, rarest, cursor, high, table=table, shift=32 - bits)
        return rarest

    def _keys(self, rarest: Rarest, order: np.ndarray) -> Iterator[np.ndarray]:
        """The rarest shingles that several rows hold, with the rows' places in the order; ascending, in blocks [K]."""
        from kat.pair_weights import kernels

        position = np.empty_like(order)
        position[order] = np.arange(len(order), dtype=order.dtype)
        for low, high, held in _ranges(kernels.shared_bucket_sizes(self.rows, rarest)):
            keys = np.empty(held, np.uint64)
            kernels.shared_keys(self.rows, rarest, position, low=low, high=high, keys=keys)
            keys.sort()
            yield keys


class _Distinct:
    """Numbers from arrays that come one by one, each number once."""

    def __init__(self) -> None:
        self._held = np.empty(0, np.int64)
        self._new: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> None:
        """Take a copy of an array [K]."""
        self._new.append(numbers.copy())
        if sum(map(len, self._new)) > max(len(self._held), PENDING):
            self._held, self._new = self.numbers(), []

    def numbers(self) -> np.ndarray:
        """Return the numbers so far, ascending."""
        return np.unique(np.concatenate([self._held, *self._new]))


def shingles(text: str) -> np.ndarray:
    """Return a 32-bit hash of every run of LETTERS letters of a text [S], case, marks and spacing made alike.

    A text without letters or digits is taken as it is; one that is shorter than a run is one shingle.
    """
    from kat.pair_weights.text_kernels import hash_runs

    return hash_runs(_letters(text), LETTERS)


def _letters(text: str) -> np.ndarray:
    """The code points [L] uint32 of a text whose case, marks and spacing were made alike."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", folded) or folded.split()
    return np.frombuffer(f" {' '.join(words)} ".encode("utf-32-le", "surrogatepass"), "<u4")


def _ranges(sizes: np.ndarray) -> list[tuple[int, int, int]]:
    """Consecutive ranges of hashes as (first, past the last, how many they hold): at most one of PARTS of all, or BLOCK
    hashes, or one bucket.

    `sizes` counts the hashes of each bucket.
    """
    ends = np.cumsum(sizes)
    block = max(int(ends[-1]) // PARTS, BLOCK)
    ranges, low, before = [], 0, 0
    while before < ends[-1]:
        bucket = max(int(np.searchsorted(ends, before + block, "right")), low + 1)
        ranges.append((low << 16, bucket << 16, int(ends[bucket - 1]) - before))
        low, before = bucket, int(ends[bucket - 1])
    return ranges


def asked_text(prefix: Prefix) -> str:
    """Return what is compared of a prefix: its opening, or where its id is not the opening's, all that the user says.

    Never the system's words, which many conversations share.
    """
    if prefix.id == opening_id(prefix.opening):
        return prefix.opening
    return "\n".join(message["content"] for message in prefix.messages if message["role"] == "user")
