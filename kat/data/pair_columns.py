"""The pairs of a file without their text: what weights, splits and joins need to know of each."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kat.data.repeats import pair_parts
from kat.data.texts import (
    BLOCK,
    ArrowTexts,
    CodedTexts,
    HexTexts,
    TextBuilder,
    TextColumn,
    arrow_texts,
    coded_texts,
    hex_number,
)
from kat.records import Pair

DUPLICATE = "exact duplicate of an earlier pair"
_NUMBERED = r"#[0-9]+$"
"""Ids that end like those that renaming gives."""


@dataclass(frozen=True, eq=False)
class PairColumns:
    """P pairs in the order of their file.

    `pair_ids` are distinct: one that came before got "#2", "#3", … (`renamed` counts them). `opening` [P] are rows of
    `opening_ids`, which stand in order of first appearance; `opening_chars` [X] is the length of each. `duplicate` [P]
    marks pairs whose context, tools, chosen and rejected were met before. Lengths are in characters. `labels` are the
    columns [P] that the pairs' reader was asked for.

    A pair takes 33 bytes and its id's UTF-8: row and opening 8 each, both lengths, src and the id's place 4 each,
    duplicate 1; 4 more for each label. An opening takes 16: id and length 8 each. Distinct values of src and labels
    come on top, once each. From 300,000 to 1,000,000 pairs with ids of 32 letters and 5 openings for 6 pairs, resident
    memory grows by 78 bytes a pair, and by 126 at the peak, when openings are numbered by sorting.
    """

    pair_ids: TextColumn
    row: np.ndarray
    src: CodedTexts
    opening: np.ndarray
    opening_ids: TextColumn
    opening_chars: np.ndarray
    chosen_chars: np.ndarray
    rejected_chars: np.ndarray
    duplicate: np.ndarray
    renamed: int
    labels: dict[str, CodedTexts] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pair_ids)


def collect_columns(pairs: Iterable[Pair]) -> PairColumns:
    """Read pairs through, keeping none of their text.

    Raises UnicodeEncodeError for an id, a source or a label that is no Unicode.
    """
    names, openings, src = _Names(), _Openings(), _Labels()
    labels: dict[str, _Labels] = {}
    row, chosen, rejected, digests = array("q"), array("i"), array("i"), array("Q")
    for pair in pairs:
        names.add(pair.id)
        openings.add(pair.prefix.id, len(pair.prefix.opening))
        row.append(pair.row)
        chosen.append(len(pair.chosen))
        rejected.append(len(pair.rejected))
        src.add(pair.src)
        for name, label in pair.labels.items():
            labels.setdefault(name, _Labels()).add(label)
        digests.frombytes(_digest(pair))
    duplicate = _repeats(np.asarray(digests, np.uint64).reshape(-1, 2))
    del digests
    pair_ids, renamed = names.finish()
    opening, opening_ids, opening_chars = openings.finish()
    return PairColumns(
        pair_ids=pair_ids,
        row=np.asarray(row, np.int64),
        src=src.finish(),
        opening=opening,
        opening_ids=opening_ids,
        opening_chars=opening_chars,
        chosen_chars=np.asarray(chosen, np.int32),
        rejected_chars=np.asarray(rejected, np.int32),
        duplicate=duplicate,
        renamed=renamed,
        labels={name: label.finish() for name, label in labels.items()},
    )


class _Labels:
    """A column of few distinct texts."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._codes = array("i")

    def add(self, label: str) -> None:
        self._codes.append(self._known.setdefault(label, len(self._known)))

    def finish(self) -> CodedTexts:
        return coded_texts(np.asarray(self._codes, np.int32), self._known)


class _Openings:
    """The opening of each pair. Ids of files are 16 hex digits, and are kept as numbers; others as they are."""

    def __init__(self) -> None:
        self._numbers, self._chars = array("Q"), array("i")
        self._others: dict[int, str] = {}

    def add(self, opening_id: str, chars: int) -> None:
        number = hex_number(opening_id)
        if number is None:
            self._others[len(self._numbers)] = opening_id
        self._numbers.append(number or 0)
        self._chars.append(chars)

    def finish(self) -> tuple[np.ndarray, TextColumn, np.ndarray]:
        """Return the opening [P] of each pair, the ids [X] in order of first appearance and their lengths [X]."""
        numbers = np.asarray(self._numbers, np.uint64)
        if self._others:
            known: dict[str, int] = {}
            texts = (self._others.get(row, text) for row, text in enumerate(HexTexts(numbers)))
            opening = np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int64, len(numbers))
            first = np.unique(opening, return_index=True)[1]
            ids: TextColumn = arrow_texts(known)
        else:
            values, first, opening = np.unique(numbers, return_index=True, return_inverse=True)
            order = np.argsort(first)
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            opening, first, ids = rank[opening], first[order], HexTexts(values[order])
        return opening, ids, np.asarray(self._chars, np.int32)[first].astype(np.int64)


class _Names:
    """Ids made distinct, in order: the first keeps its own."""

    def __init__(self) -> None:
        self._ids = TextBuilder()
        self._hashes = array("q")  # equal ids have equal ones; others hardly ever

    def add(self, pair_id: str) -> None:
        self._ids.append(pair_id)
        self._hashes.append(hash(pair_id))

    def finish(self) -> tuple[ArrowTexts, int]:
        """Return the ids [P] and how many were renamed."""
        ids, repeated = self._ids.finish(), _in_groups(np.asarray(self._hashes, np.int64))
        self._hashes = array("q")
        if not repeated.any():
            return ids, 0
        numbered = _numbered(ids)
        if not numbered.any():
            return _counted(ids, np.flatnonzero(repeated))
        # An id that no other pair has, and that does not end like a new name, is neither asked for nor given.
        return _walked(ids, np.flatnonzero(repeated | numbered))


def _counted(ids: ArrowTexts, rows: np.ndarray) -> tuple[ArrowTexts, int]:
    """Rename the second and later of equal ids, all of which are among these rows [R]; none ends like a new name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    taken = ids.take(rows)
    codes = taken.coded().codes
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    count = np.empty(len(rows), np.int64)
    count[order] = np.arange(1, len(rows) + 1) - np.repeat(starts, np.diff(starts, append=len(rows)))
    later = np.flatnonzero(count > 1)
    names = []
    for start in range(0, len(later), BLOCK):
        block = taken.take(later[start : start + BLOCK])
        numbers = pa.array(count[later[start : start + BLOCK]]).cast(pa.string())
        names.append(pc.binary_join_element_wise(block.chunks(0, len(block)).combine_chunks(), numbers, "#"))
    return _replaced(ids, rows[later], ArrowTexts(pa.chunked_array(names, pa.string())))


def _walked(ids: ArrowTexts, rows: np.ndarray) -> tuple[ArrowTexts, int]:
    """Rename ids among these rows [R] that stood before, as their own or as a new name of another."""
    taken: set[str] = set()
    used: Counter[str] = Counter()
    changed, names = array("q"), TextBuilder()
    for place, pair_id in enumerate(ids.take(rows)):
        name = pair_id
        while name in taken:  # also by an id that was "x#2" from the start
            used[pair_id] += 1
            name = f"{pair_id}#{used[pair_id] + 1}"
        taken.add(name)
        if name != pair_id:
            changed.append(place)
            names.append(name)
    return _replaced(ids, rows[np.asarray(changed, np.int64)], names.finish())


def _replaced(ids: ArrowTexts, rows: np.ndarray, names: ArrowTexts) -> tuple[ArrowTexts, int]:
    """Return ids with other names in some rows [R], which ascend, and how many those are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = []
    for start in range(0, len(ids), BLOCK):
        chunk = ids.chunks(start, min(start + BLOCK, len(ids))).combine_chunks()
        first, last = np.searchsorted(rows, [start, start + BLOCK]).tolist()
        if first < last:
            mask = np.zeros(len(chunk), bool)
            mask[rows[first:last] - start] = True
            chunk = pc.replace_with_mask(chunk, pa.array(mask), names.chunks(first, last).combine_chunks())
        chunks.append(chunk)
    return ArrowTexts(pa.chunked_array(chunks, pa.string())), len(rows)


def _numbered(ids: ArrowTexts) -> np.ndarray:
    """Which ids [P] end like a new name."""
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring_regex(ids.chunks(0, len(ids)), _NUMBERED), bool)


def _in_groups(values: np.ndarray) -> np.ndarray:
    """Which values [P] stand in more than one row."""
    order = np.argsort(values)
    same = values[order[1:]] == values[order[:-1]]
    several = np.zeros(len(values), bool)
    several[order[1:][same]] = several[order[:-1][same]] = True
    return several


def _repeats(digests: np.ndarray) -> np.ndarray:
    """Which rows [P] of digests [P, 2] are equal to an earlier one."""
    repeats = np.zeros(len(digests), bool)
    rows = np.flatnonzero(_in_groups(digests[:, 0]))  # of the others one half is enough
    rows = rows[np.lexsort((digests[rows, 1], digests[rows, 0]))]  # equal ones in the order of their rows
    repeats[rows[1:][(digests[rows[1:]] == digests[rows[:-1]]).all(axis=1)]] = True
    return repeats


def _digest(pair: Pair) -> bytes:
    """128 bits of all that a pair says."""
    digest = hashlib.blake2b(digest_size=16)
    for part in pair_parts(pair):
        text = part.encode()
        digest.update(len(text).to_bytes(8, "little"))  # so that ("ab", "c") is not ("a", "bc")
        digest.update(text)
    return digest.digest()
