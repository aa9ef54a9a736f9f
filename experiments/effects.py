"""Differences from uniform over many draws, with intervals: of openings drawn again, and of the draws themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.evaluation.intervals import effective_clusters, interval, replicate

REPLICATES = 2000


@dataclass(frozen=True)
class Effect:
    """A mean difference with its interval of 95 %, None where there is too little for one."""

    value: float
    interval: tuple[float, float] | None

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}


def effect(values: np.ndarray, opening: np.ndarray, seed: int = 0) -> Effect:
    """Return the mean of differences [S, P] of S draws, NaN where a pair is not measured.

    The interval is of openings [P] int drawn with replacement, each with all its pairs and draws, made wider by the
    variance between the means of the draws.
    """
    sums = _sums(values, opening)
    means = replicate(sums, lambda totals: totals[:, :1] / totals[:, 1:], REPLICATES, seed)[:, 0]
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    bounds = interval(means, effective_clusters(sums[:, 1]))
    if bounds is None:
        return Effect(value, None)
    factor = _widening(values, float(np.nanvar(means)))
    return Effect(value, (value + (bounds[0] - value) * factor, value + (bounds[1] - value) * factor))


def recovered(values: np.ndarray, oracle: np.ndarray, opening: np.ndarray, seed: int = 0) -> Effect:
    """Return what share of the oracle's gain is gained, both [S, P] as of `effect`: a ratio, from the same draws."""
    sums = np.concatenate([_sums(values, opening)[:, :1], _sums(oracle, opening)[:, :1]], 1)
    kept = sums[_sums(values, opening)[:, 1] > 0]
    ratios = replicate(kept, lambda totals: totals[:, :1] / totals[:, 1:], REPLICATES, seed)[:, 0]
    return Effect(float(kept[:, 0].sum() / kept[:, 1].sum()), interval(ratios, float(len(kept))))


def _sums(values: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Return sums and counts [X, 2] of each opening that is measured."""
    measured = ~np.isnan(values)
    size = int(opening.max()) + 1
    total = np.bincount(opening, np.nansum(values, 0), minlength=size)
    count = np.bincount(opening, measured.sum(0), minlength=size)
    return np.stack([total, count], 1)[count > 0]


def _widening(values: np.ndarray, within: float) -> float:
    """Return by how much an interval is widened for the variance between draws."""
    means = np.asarray([np.nanmean(row) for row in values if not np.isnan(row).all()])
    if len(means) < 2 or not within > 0:
        return 1.0
    return float(np.sqrt(1 + means.var(ddof=1) / len(means) / within))


def points(told: Mapping[str, Any], times: float = 100) -> str:
    """Return an effect, or a difference of `kat.evaluation`, for a table, times 100: "+0.80 [+0.20, +1.40]"."""
    text = f"{times * told.get('value', told.get('difference')):+.2f}"
    if told["interval"] is not None:
        text += f" [{times * told['interval'][0]:+.2f}, {times * told['interval'][1]:+.2f}]"
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; every column but the first is of numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
