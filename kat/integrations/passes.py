"""Weighted passes for trainers that cannot weigh a row: each row as often as its weight says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import numpy as np

from kat.density.sampling import draw_pass
from kat.errors import InputError


def drawn_counts(weights: np.ndarray, seed: int, draws: int | None = None) -> np.ndarray:
    """Return how often each row [N] stands in a weighted pass of `draws` rows, N unless told: within one of
    draws · weight / Σ weight.

    Raises InputError if there are no rows.
    """
    if not len(weights):
        raise InputError("There is nothing to draw from: no row trains.")
    return np.bincount(draw_pass(weights, draws or len(weights), seed), minlength=len(weights))


def drawn_order(weights: np.ndarray, seed: int, units: Sequence[str] | None = None) -> np.ndarray:
    """Return the rows [N] of a weighted pass, shuffled; each stands in it as often as `drawn_counts` says.

    `units` [N] name what is drawn where rows share it (the openings of contexts): a unit is drawn by the sum of its
    rows' weights, and its draws are spread evenly over its rows.
    """
    counts = drawn_counts(weights, seed) if units is None else _spread_counts(weights, seed, units)
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(weights)), counts))


def _spread_counts(weights: np.ndarray, seed: int, units: Sequence[str]) -> np.ndarray:
    """Return how often each row stands in a pass of N rows; the rows of a unit differ by one at most."""
    place: dict[str, int] = {}  # in order of appearance: with a row each, units are the rows
    unit = np.asarray([place.setdefault(name, len(place)) for name in units], np.int64)
    if not len(unit):
        return drawn_counts(weights, seed)
    sizes = np.bincount(unit)
    totals = drawn_counts(np.bincount(unit, weights=weights), seed, len(weights))
    order = np.argsort(unit, kind="stable")
    rank = np.empty(len(unit), np.int64)
    rank[order] = np.arange(len(unit)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # The odd draws of a unit go to the rows that follow a start drawn for it.
    start = np.random.default_rng((seed, 1)).integers(0, sizes)
    turn = (rank - start[unit]) % sizes[unit]
    return totals[unit] // sizes[unit] + (turn < totals[unit] % sizes[unit])


class Spool:
    """Lines in an open file, read back by number: a pass repeats lines out of order, and texts stay on disk."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._ends = [0]

    def add(self, line: bytes) -> None:
        """Keep a line."""
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        self._file.seek(start)
        return self._file.read(end - start)
