"""How far two weights of the same openings agree: in their order, in what is heaviest, and in where the weight lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kat.density.stability import heaviest_overlap, heaviest_tenth
from kat.statistics import ranks, spearman

MOVED = 5
"""Openings that are named as having moved most, each way."""


@dataclass(frozen=True)
class Moved:
    """An opening that moved in rank: its weights, and its ranks among those in both, 1 the heaviest, ties at their
    mean."""

    id: str
    weights: tuple[float, float]
    ranks: tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """How far two weights agree on the openings that both weigh.

    `both` are in both, `only` in the first or the second alone. `rank_correlation` is Spearman's, and `overlap` the
    share of the heaviest `tenth` of the one that is in that of the other: None where either weighs all of them alike.
    `moved` is ½ Σ |share − share'| of the shares of all weight in both. `up` and `down` moved most in rank.
    """

    both: int
    only: tuple[int, int]
    rank_correlation: float | None
    tenth: int
    overlap: float | None
    moved: float
    up: Sequence[Moved] = ()
    down: Sequence[Moved] = ()

    @property
    def expected_overlap(self) -> float:
        """The overlap of two tenths that know nothing of each other, on average."""
        return self.tenth / self.both


def in_both(ids: Sequence[str], others: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows [B] of the ids that stand in both lists, in the order of the first, and their rows [B] in the
    second. Ids of a list are distinct."""
    place = {name: row for row, name in enumerate(others)}
    rows = [(row, place[name]) for row, name in enumerate(ids) if name in place]
    first, second = np.asarray(rows, np.int64).reshape(-1, 2).T
    return first, second


def agreement(one: Mapping[str, float], other: Mapping[str, float], moved: int = MOVED) -> Agreement:
    """Compare two weights, {id: weight} with positive weights; `moved` openings are named each way at most.

    Raises ValueError if no id is in both.
    """
    ids = list(one)
    first, _ = in_both(ids, list(other))
    if not len(first):
        raise ValueError("No id is in both.")
    names = [ids[row] for row in first.tolist()]
    a, b = (np.asarray([weights[name] for name in names], np.float64) for weights in (one, other))
    alike = np.ptp(a) == 0 or np.ptp(b) == 0
    up, down = _moved(names, a, b, moved)
    return Agreement(
        both=len(names),
        only=(len(one) - len(names), len(other) - len(names)),
        rank_correlation=None if alike else spearman(a, b),
        tenth=heaviest_tenth(len(names)),
        overlap=None if alike else heaviest_overlap(a, b),
        moved=float(np.abs(a / a.sum() - b / b.sum()).sum() / 2),
        up=up,
        down=down,
    )


def _moved(names: Sequence[str], a: np.ndarray, b: np.ndarray, most: int) -> tuple[list[Moved], list[Moved]]:
    """Those that rose most in rank from weights a [B] to b [B], and those that fell most; ties in their order."""
    places = np.stack([1 + ranks(-a), 1 + ranks(-b)])
    risen = places[0] - places[1]

    def told(row: int) -> Moved:
        before, after = places[:, row].tolist()
        return Moved(names[row], (float(a[row]), float(b[row])), (before, after))

    up, down = (np.argsort(-way * risen, kind="stable")[:most].tolist() for way in (1, -1))
    return [told(row) for row in up if risen[row] > 0], [told(row) for row in down if risen[row] < 0]
