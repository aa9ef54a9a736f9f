"""Which texts are read together: windows in input order, sorted by length inside, cut into packs of a token budget.

Pure functions of lengths and options, so that a run that was stopped cuts the same packs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from kat.errors import OptionError

WINDOW = 65_536
"""Texts that are sorted together: enough for long runs of equal length, few enough for any memory."""
CHARACTERS = 1 << 26
"""Characters that are sorted together: some 16 million tokens, 64 MB of them."""
EVEN = 4
"""Processes that many a machine has: a number of packs that they divide leaves none of them waiting at the end."""


def windows(texts: Iterable[str], most: int = WINDOW, characters: int = CHARACTERS) -> Iterator[list[str]]:
    """Yield consecutive texts, up to `most` and about `characters` at a time: what memory holds, however many come."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if len(held) == most or size >= characters:
            yield held
            held, size = [], 0
    if held:
        yield held


def packs(lengths: np.ndarray, budget: int, most: int | None = None, *, padded: bool = False) -> list[np.ndarray]:
    """Return the row numbers of each pack, longest texts first.

    `lengths` [N] are tokens, all above 0. A pack holds at most `budget` tokens (with padding to its longest text if
    `padded`), or one text, and at most `most` texts. Longest first: what does not fit in memory shows at once. Many
    packs are about equal, and near a multiple of EVEN, so that processes that share them end together.

    Raises OptionError for a budget or a number of texts below 1.
    """
    if budget < 1 or (most is not None and most < 1):
        raise OptionError(f"A pack of {budget} tokens and {most} texts holds nothing; expected 1 or more of each.")
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    falling = np.asarray(lengths, np.int64)[order]
    ends = np.cumsum(falling)
    goals = _goals(int(ends[-1]) if len(ends) else 0, budget)
    cut: list[np.ndarray] = []
    start = before = 0
    while start < len(order):
        if padded:
            stop = min(start + max(budget // int(falling[start]), 1), len(order))
        else:
            goal = next((g for g in goals if g > before), np.inf)
            stop = max(int(np.searchsorted(ends, min(before + budget, goal), side="right")), start + 1)
        stop = stop if most is None else min(stop, start + most)
        cut.append(order[start:stop])
        start, before = stop, int(ends[stop - 1])
    return cut


def _goals(total: int, budget: int) -> Iterator[float]:
    """Yield the token where each pack of `total` tokens should end, if there are enough of them to be made equal."""
    count = -(-total // budget)
    if count >= 4 * EVEN:
        count = -(-count // EVEN) * EVEN
        yield from (total * (i + 1) / count for i in range(count))


def halves(lengths: np.ndarray) -> int:
    """Return how many of a pack's first texts hold about half of its tokens: where to cut it. Needs two texts."""
    ends = np.cumsum(lengths)
    return min(max(int(np.searchsorted(ends, ends[-1] / 2)), 1), len(lengths) - 1)
