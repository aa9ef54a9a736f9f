"""How weights depend on what was chosen: the temperature along a curve, and k."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kat.config import DensityOptions
from kat.density.estimators import estimate_density
from kat.density.explain import OTHER_KS
from kat.density.weights import project, weigh
from kat.records import Density
from kat.statistics import effective_sample_size, spearman

TENTH = 0.1


@dataclass(frozen=True)
class AtK:
    """Weights made with another k, beside those that were chosen: their rank correlation (None if either are all
    equal), and the share of the heaviest tenth that both have."""

    k: int
    temperature: float
    ess_share: float
    rank_correlation: float | None
    same_heaviest: float


def ess_curve(log_density: np.ndarray, cap: float, temperatures: np.ndarray) -> np.ndarray:
    """Return ESS/N [T] of the weights that each of some temperatures [T] gives."""
    ascending = np.sort(np.asarray(log_density, np.float64))
    return np.asarray([effective_sample_size(project(ascending, t, cap)) for t in temperatures]) / len(ascending)


def at_other_ks(
    density: Density, values: np.ndarray, options: DensityOptions, ks: Iterable[int] = OTHER_KS
) -> list[AtK]:
    """Return the weights of a density's neighbours at other k beside its own weights `values` [N].

    Those k for which there are not enough distinct neighbours are left out. Raises ValueError for a density without
    neighbours.
    """
    neighbors = density.neighbors
    if neighbors is None:
        raise ValueError("This density was made without neighbours: there is no other k.")
    known = neighbors.distinct_distances.shape[1]
    rows = []
    for k in ks:
        if k == density.k or k > known:
            continue
        other = weigh(
            estimate_density(neighbors, k, density.estimator),
            ess=options.ess,
            cap=options.cap,
            temperature=options.temperature,
            max_temperature=options.max_temperature,
        )
        r = spearman(values, other.values)
        same = heaviest_overlap(values, other.values)
        rows.append(AtK(k, other.temperature, other.ess_share, r if np.isfinite(r) else None, same_heaviest=same))
    return rows


def heaviest_tenth(rows: int) -> int:
    """Return how many the heaviest tenth of so many rows are, at least one."""
    return max(1, round(TENTH * rows))


def heaviest_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of the heaviest tenth of the rows, at least one, that two weights [N] have in common."""
    top = heaviest_tenth(len(one))
    first, second = (np.argsort(-np.asarray(values), kind="stable")[:top] for values in (one, other))
    return len(np.intersect1d(first, second)) / top
