"""Pairs that contradict each other: two completions of one context preferred both ways, or one on both sides."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kat.data.repeats import completion_parts, context_parts
from kat.records import Pair

EXAMPLES = 5


@dataclass(frozen=True)
class Contradictions:
    """What contradicts what among `pairs`.

    `reversed_pairs` counts the pairs whose two completions another pair of the same context prefers the other way
    round. `mixed` counts completions that are chosen in one pair and rejected in another of the same context, and
    `mixed_pairs` the pairs that hold one: a ranking of three completions does that too, and contradicts nothing.
    `identical` counts pairs whose completions are the same; they prefer nothing, and are in no other count.

    Examples are rows of the source, the first of each: of two pairs that reverse each other, and of the pair that
    chooses a completion with the one that rejects it.
    """

    pairs: int
    reversed_pairs: int
    mixed: int
    mixed_pairs: int
    identical: int
    reversed_examples: tuple[tuple[int, int], ...] = ()
    mixed_examples: tuple[tuple[int, int], ...] = ()


class ContradictionFinder:
    """Meet pairs one by one, and keep 16 bytes of each: 64-bit hashes of its context with either completion.

    A false match is rarer than 1 in 10⁵ at 10⁷ pairs.
    """

    def __init__(self) -> None:
        self._chosen, self._rejected = array("q"), array("q")
        self._places, self._shifts = array("q"), array("q")
        """Where a pair's row is no longer its number plus the last shift: rows that are no pairs stand between."""

    def watch(self, pairs: Iterable[Pair]) -> Iterable[Pair]:
        """Yield pairs as they are, and meet each."""
        for pair in pairs:
            self.add(pair)
            yield pair

    def add(self, pair: Pair) -> None:
        """Meet one pair."""
        context = hash(tuple(context_parts(pair)))
        shift = pair.row - len(self._chosen)
        if not self._shifts or shift != self._shifts[-1]:
            self._places.append(len(self._chosen))
            self._shifts.append(shift)
        self._chosen.append(hash((context, completion_parts(pair.chosen, pair.chosen_messages))))
        self._rejected.append(hash((context, completion_parts(pair.rejected, pair.rejected_messages))))

    def result(self, examples: int = EXAMPLES) -> Contradictions:
        """Return what was met so far, with the first few examples of each kind."""
        chosen, rejected = (np.frombuffer(side, np.int64) for side in (self._chosen, self._rejected))
        differ = np.flatnonzero(chosen != rejected)
        mixed = np.intersect1d(chosen[differ], rejected[differ])
        is_chosen, is_rejected = (np.isin(side[differ], mixed) for side in (chosen, rejected))
        # Only pairs of two mixed completions can have a reverse.
        both = differ[is_chosen & is_rejected]
        reverses, opposites = _opposites(chosen[both], rejected[both])
        turned = zip(both[reverses], both[opposites], strict=True)
        sides = zip(*(_first(side, differ, mixed) for side in (chosen, rejected)), strict=True)
        return Contradictions(
            pairs=len(chosen),
            reversed_pairs=len(reverses),
            mixed=len(mixed),
            mixed_pairs=int((is_chosen | is_rejected).sum()),
            identical=len(chosen) - len(differ),
            reversed_examples=self._rows(_once(turned, examples)),
            mixed_examples=self._rows(sorted(sides, key=lambda side: (max(side), side))[:examples]),
        )

    def _rows(self, places: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """The rows of pairs by their numbers."""

        def row(place: int) -> int:
            return int(place + self._shifts[np.searchsorted(self._places, place, side="right") - 1])

        return tuple((row(one), row(other)) for one, other in places)


def _opposites(chosen: np.ndarray, rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs whose reverse is among them, ascending, and the first such reverse of each."""
    order = np.lexsort((np.arange(len(chosen)), rejected, chosen))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(chosen[order]) != 0) | (np.diff(rejected[order]) != 0)
    kinds = order[first]  # the first pair of each preference, in order of its two hashes
    ordered = np.empty(len(kinds), "i8,i8")
    ordered["f0"], ordered["f1"] = chosen[kinds], rejected[kinds]
    asked = np.empty(len(chosen), "i8,i8")
    asked["f0"], asked["f1"] = rejected, chosen
    place = np.minimum(np.searchsorted(ordered, asked), max(len(kinds) - 1, 0))
    reverses = np.flatnonzero(ordered[place] == asked) if len(kinds) else np.zeros(0, np.int64)
    return reverses, kinds[place[reverses]]


def _first(side: np.ndarray, differ: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Return the number of the first pair that has each mixed completion on a side."""
    values, first = np.unique(side[differ], return_index=True)
    return differ[first[np.searchsorted(values, mixed)]]


def _once(couples: Iterable[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return the first few couples of different preferences: repeats share the pair that reverses them, and what
    reverses a pair comes after it."""
    kept: list[tuple[int, int]] = []
    for couple in couples:
        if len(kept) == most:
            break
        if not {*couple} & {place for one in kept for place in one}:
            kept.append(couple)
    return kept
