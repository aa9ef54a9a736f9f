"""Distances to neighbours → log density. High = crowded, up to a constant that weights do not feel.

Every estimator is a pure function of `spacing` [N, k], a row's distances to its k nearest distinct others, ascending,
and returns float64 [N]. docs/estimators.md compares them on known densities and says why the default is the default.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kat.errors import OptionError
from kat.records import Density, Embeddings, Halves, Neighbors

_TINY = np.finfo(np.float64).tiny


def estimate_density(
    neighbors: Neighbors, k: int | None = None, estimator: str = "mean_distance", embeddings: Embeddings | None = None
) -> Density:
    """Log density of every row, and how much of it is noise.

    A vector that m rows share is a place m times as crowded: log(m) is added, in the estimator's own units. Copies
    thus have equal, finite and high densities, and copying a whole cluster counts like as many new points in it.

    `k` is at most the neighbours' own k, which is its default. `embeddings` [N, D] are needed only for
    "inverse_cosine" where the metric was not cosine. All densities are equal where there is nothing to measure: one
    row, or copies of one vector.

    Raises OptionError for k < 1 or an unknown estimator.
    """
    if k is not None and k < 1:
        raise OptionError(f"k is {k}; expected 1 or more.")
    if estimator not in ESTIMATORS:
        raise OptionError(f"estimator is {estimator!r}; expected {', '.join(ESTIMATORS)}.")
    used = min(k or neighbors.k, neighbors.spacing.shape[1])
    if used == 0:
        flat = np.zeros(len(neighbors))
        return Density(neighbors.ids, flat, estimator, 0, neighbors.metric, float("nan"), neighbors=neighbors)
    spacing = neighbors.spacing[:, :used]
    dimension = intrinsic_dimension(spacing)
    if estimator == "inverse_cosine" and neighbors.metric != "cosine":
        log_density = _mean_cosine_of(neighbors, used, embeddings)
    else:
        log_density = ESTIMATORS[estimator](spacing, dimension)
    if neighbors.multiplicity.max() > 1:
        log_density = log_density + np.log(neighbors.multiplicity) * _COPIES[estimator](dimension)
    r, noise = split_half(neighbors.halves, used, dimension, estimator, log_density)
    return Density(
        neighbors.ids, log_density, estimator, used, neighbors.metric, dimension, r, noise, neighbors=neighbors
    )


def mean_distance(spacing: np.ndarray, dimension: float) -> np.ndarray:
    """−log of the mean distance to the k nearest: log density in units of inverse radius.

    The mean steadies the single distance; Loftsgaarden & Quesenberry (1965) for the k-NN density itself, Angiulli &
    Pizzuti (2002) for the mean over k as a measure of sparseness. Needs no dimension: radius^−1 ∝ density^(1/d).
    """
    return -np.log(np.maximum(spacing.mean(axis=1, dtype=np.float64), _TINY))


def kth_distance(spacing: np.ndarray, dimension: float) -> np.ndarray:
    """−d · log of the k-th distance: the k-NN density k / (N · V_d · r_k^d) up to a constant.

    Loftsgaarden & Quesenberry, "A nonparametric estimate of a multivariate density function" (1965), with d the
    intrinsic dimension in place of the number of columns.
    """
    return -dimension * np.log(np.maximum(spacing[:, -1].astype(np.float64), _TINY))


def inverse_cosine(spacing: np.ndarray, dimension: float) -> np.ndarray:
    """log of the mean cosine similarity to the k nearest, from distances between unit vectors: cos = 1 − δ²/2.

    The project's origin weighed by the inverse of this mean. Means at or under 0 count as the smallest above it.
    """
    return _log_positive(1 - np.square(spacing, dtype=np.float64).mean(axis=1) / 2)


def _log_positive(cosine: np.ndarray) -> np.ndarray:
    floor = cosine[cosine > 0].min() if (cosine > 0).any() else 1.0
    return np.log(np.maximum(cosine, floor))


ESTIMATORS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "mean_distance": mean_distance,
    "kth_distance": kth_distance,
    "inverse_cosine": inverse_cosine,
}

# What log(m) copies add, in the units of each estimator: density^(1/d), density, and similarity, which has none.
_COPIES: dict[str, Callable[[float], float]] = {
    "mean_distance": lambda dimension: 1 / dimension,
    "kth_distance": lambda dimension: 1.0,
    "inverse_cosine": lambda dimension: 1 / dimension,
}


def intrinsic_dimension(spacing: np.ndarray) -> float:
    """Intrinsic dimension from the two nearest distances, at least 1; 1 if there are too few to tell.

    TwoNN, Facco, d'Errico, Rodriguez & Laio, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information", Scientific Reports 7 (2017): the ratio μ of the second to the first distance is Pareto
    of exponent d. Maximum likelihood, d = n / Σ log μ, after leaving out the largest tenth of the ratios as they do;
    the likelihood of a sample censored there counts what was left out at its threshold.
    """
    if spacing.shape[1] < 2 or len(spacing) < 3:
        return 1.0
    two = np.maximum(spacing[:, :2].astype(np.float64), _TINY)
    ratios = np.sort(np.log(two[:, 1] / two[:, 0]))
    kept = max(1, int(0.9 * len(ratios)))
    total = ratios[:kept].sum() + (len(ratios) - kept) * ratios[kept - 1]
    return float(max(1.0, kept / total)) if total > 0 else 1.0


def split_half(
    halves: Halves | None, k: int, dimension: float, estimator: str, log_density: np.ndarray
) -> tuple[float | None, float | None]:
    """Correlation r of log density between two halves of the data, and the noise σ² = (1 − r) · var(log density).

    If an estimate is signal plus independent noise, r is the signal's share of its variance (the reliability of
    classical test theory; Lord & Novick 1968). A negative r counts as 0.
    """
    if halves is None or np.ptp(log_density) == 0:
        return None, None
    used = min(k, halves.first.shape[1])
    one, two = (ESTIMATORS[estimator](side[:, :used], dimension) for side in (halves.first, halves.second))
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return None, None
    r = max(0.0, float(np.corrcoef(one, two)[0, 1]))
    return r, (1 - r) * float(np.var(log_density))


def _mean_cosine_of(neighbors: Neighbors, used: int, embeddings: Embeddings | None) -> np.ndarray:
    source = embeddings or neighbors.source
    if source is None:
        raise OptionError("inverse_cosine with Euclidean neighbours needs the vectors: pass embeddings=.")
    x = np.asarray(source.vectors, np.float32)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return _log_positive(_row_cosines(unit, neighbors.indices[:, :used]))


def _row_cosines(unit: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Mean cosine [N] of every row with its neighbours, one neighbour rank at a time to keep memory at [N, D]."""
    total = np.zeros(len(unit))
    for rank in range(near.shape[1]):
        total += np.einsum("nd,nd->n", unit, unit[near[:, rank]])
    return total / near.shape[1]
