"""Distances to neighbours → log density. High = crowded, up to a constant that weights do not feel."""

from __future__ import annotations

import numpy as np

from kat.errors import OptionError
from kat.records import Density, Neighbors


def estimate_density(neighbors: Neighbors, k: int | None = None) -> Density:
    """Log density of every row: minus the log of the mean distance to its k nearest distinct others.

    A vector that m rows share is a place m times as crowded. Density goes as radius^−d, so in units of inverse
    radius, which the estimate is in, that adds log(m) / d, d the intrinsic dimension. Copies thus have equal, finite
    and high densities, and the copying of a whole cluster counts like as many new points in it.

    `k` is at most the neighbours' own k, which is its default. All densities are equal where there is nothing to
    measure: one row, or copies of one vector.
    """
    if k is not None and k < 1:
        raise OptionError(f"k is {k}; expected 1 or more.")
    used = min(k or neighbors.k, neighbors.spacing.shape[1])
    n = len(neighbors)
    if used == 0:
        return Density(neighbors.ids, np.zeros(n), "mean_distance", 0, neighbors.metric, float("nan"))
    radius = neighbors.spacing[:, :used].mean(axis=1, dtype=np.float64)
    dimension = intrinsic_dimension(neighbors.spacing[:, :used])
    log_density = -np.log(np.maximum(radius, np.finfo(np.float64).tiny))
    if neighbors.multiplicity.max() > 1:
        log_density += np.log(neighbors.multiplicity) / dimension
    return Density(neighbors.ids, log_density, "mean_distance", used, neighbors.metric, dimension)


def intrinsic_dimension(spacing: np.ndarray) -> float:
    """Intrinsic dimension from distances [N, k] to distinct others, ascending; 1 if there are too few to tell.

    The maximum-likelihood estimate at scale k, averaged over rows as inverses: Levina & Bickel, "Maximum likelihood
    estimation of intrinsic dimension" (NIPS 2004), with the correction of MacKay & Ghahramani (2005).
    """
    if spacing.shape[1] < 2:
        return 1.0
    distances = np.maximum(spacing.astype(np.float64), np.finfo(np.float64).tiny)
    inverse = np.log(distances[:, -1:] / distances[:, :-1]).mean()
    return float(max(1.0, 1.0 / inverse)) if inverse > 0 else 1.0
