"""The order in which openings are asked: systematic sampling in proportion to weight, pass after pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kat.density.sampling import draw_pass
from kat.errors import InputError, MismatchError


def pass_seed(seed: int, number: int) -> int:
    """Return the seed of pass `number`: seeds that follow each other share no pass, as their sums would."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


class OpeningOrder:
    """Draw rows of a data set whose openings have weights: an opening with weight w is drawn ⌊n·w/Σw⌋ or ⌈n·w/Σw⌉
    times in a pass of n rows, whatever the number of its rows, which take turns.

    `opening` [N] names each row's opening. Same seed and pass, same draw, on every rank. Raises MismatchError naming
    the first opening without a weight, InputError for a weight that is not a positive number.
    """

    def __init__(self, opening: Sequence[str], weights: Mapping[str, float], seed: int = 0):
        names, place = np.unique(np.asarray(opening, str), return_inverse=True)
        missing = [name for name in names.tolist() if name not in weights]
        if missing:
            raise MismatchError(f"{len(missing):,} openings of the data set have no weight, first {missing[0]}.")
        self.names = names.tolist()
        self.weights = np.asarray([weights[name] for name in self.names], np.float64)
        bad = np.flatnonzero(~(np.isfinite(self.weights) & (self.weights > 0)))
        if len(bad):
            name, value = self.names[bad[0]], self.weights[bad[0]]
            raise InputError(f"The weight of opening {name} is {value}; expected a positive number.")
        self._rows = np.argsort(place, kind="stable")
        self._counts = np.bincount(place)
        self._first = np.concatenate([[0], np.cumsum(self._counts)])
        self._seed = seed

    def rows(self, draws: int, number: int = 0) -> np.ndarray:
        """Return the rows [draws] of pass `number`, shuffled. An opening's rows take turns over the passes."""
        chosen = draw_pass(self.weights, draws, seed=pass_seed(self._seed, number))
        order = np.argsort(chosen, kind="stable")
        ordered = chosen[order]
        turn = np.arange(draws) - np.searchsorted(ordered, ordered)  # how often the opening was drawn before
        start = np.random.default_rng((self._seed, number)).integers(0, 1 << 31, len(self.names))
        rows = np.empty(draws, np.int64)
        # An opening's rows lie side by side in `_rows`; turns go round among them from a start that each pass draws.
        rows[order] = self._rows[self._first[ordered] + (start[ordered] + turn) % self._counts[ordered]]
        return rows
