"""The openings that weigh most and least, with what lies nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kat.density.explain import nearest_others
from kat.records import Neighbors

SHOWN, NEAREST = 5, 2
"""Openings at either end, and the nearest others of each."""


@dataclass(frozen=True)
class Extreme:
    """An opening at one end of the weights: its id, its weight, and its nearest others as (id, distance)."""

    id: str
    weight: float
    nearest: Sequence[tuple[str, float]] = ()


def extremes(
    ids: Sequence[str], values: np.ndarray, neighbors: Neighbors | None = None, shown: int = SHOWN
) -> tuple[list[Extreme], list[Extreme]]:
    """Return the heaviest and the lightest of weights [N], heaviest and lightest first, ties in row order.

    No opening is in both lists; both are empty if all weights are the same.
    """
    if not len(values) or np.ptp(values) == 0:
        return [], []
    most = min(shown, len(values) // 2)
    heaviest = np.argsort(-values, kind="stable")[:most].tolist()
    lightest = [row for row in np.argsort(values, kind="stable")[: 2 * most].tolist() if row not in heaviest][:most]

    def told(row: int) -> Extreme:
        nearest: Sequence[tuple[str, float]] = []
        if neighbors is not None:
            nearest = nearest_others(neighbors, row, NEAREST)
        return Extreme(ids[row], float(values[row]), nearest)

    return [told(row) for row in heaviest], [told(row) for row in lightest]
