"""Distances to neighbours → log density. High = crowded, up to a constant that weights do not feel.

Every estimator is a pure function of `spacing` [N, k], a row's distances to its k nearest distinct others, ascending,
and returns float64 [N]. docs/estimators.md compares them on known densities and says why the default is the default.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kat.config import one_of, whole_number
from kat.errors import MismatchError, OptionError
from kat.records import Density, Embeddings, Halves, Neighbors

_TINY = np.finfo(np.float64).tiny


def estimate_density(
    neighbors: Neighbors, k: int | None = None, estimator: str = "mean_distance", embeddings: Embeddings | None = None
) -> Density:
    """Log density of every row, and how much of it is noise.

    A vector that m rows share is a place m times as crowded. Copies thus have equal, finite and high densities, and
    copying a whole cluster counts like as many new points in it.

    `k` is at most the neighbours' own k, which is its default. `embeddings` [N, D] are needed only for
    "inverse_cosine" where the metric was not cosine. All densities are equal where there is nothing to measure: one
    row, or copies of one vector.

    Raises OptionError for k < 1 or an unknown estimator.
    """
    if k is not None:
        whole_number("k", k)
    one_of("estimator", estimator, tuple(ESTIMATORS))
    used = min(k or neighbors.k, neighbors.spacing.shape[1])
    if used == 0:
        flat = np.zeros(len(neighbors))
        return Density(neighbors.ids, flat, estimator, 0, neighbors.metric, float("nan"), neighbors=neighbors)
    spacing, copies = neighbors.spacing[:, :used], neighbors.multiplicity
    dimension = two_nn(spacing) if estimator == "kth_distance" else intrinsic_dimension(spacing, copies)
    if estimator == "inverse_cosine" and neighbors.metric != "cosine":
        cosine = _mean_cosines(neighbors, used, embeddings)
        single, log_density = (_log_cosine(cosine, dimension, m) for m in (1, copies))
    else:
        single, log_density = (ESTIMATORS[estimator](spacing, dimension, m) for m in (1, copies))
    r, noise = split_half(neighbors.halves, used, dimension, estimator, single, copies)
    return Density(
        neighbors.ids, log_density, estimator, used, neighbors.metric, dimension, r, noise, neighbors=neighbors
    )


def query_log_density(queries: Neighbors, among: Density) -> np.ndarray:
    """Log density [M] of queries, on the scale of the density of the rows that they were searched among.

    Same k, estimator and intrinsic dimension; a row that equals a query is a copy of it. Raises OptionError for
    "inverse_cosine" with Euclidean distances.
    """
    if among.k == 0:
        return np.zeros(len(queries))
    if among.estimator == "inverse_cosine" and queries.metric != "cosine":
        raise OptionError("inverse_cosine of queries needs cosine neighbours: search with metric='cosine'.")
    spacing = queries.spacing[:, : among.k]
    return ESTIMATORS[among.estimator](spacing, among.intrinsic_dimension, queries.multiplicity)


Copies = np.ndarray | int
"""Rows that share a row's vector, itself included: [N], or 1 for all."""


def mean_distance(spacing: np.ndarray, dimension: float, copies: Copies = 1) -> np.ndarray:
    """−log of the mean distance to the k nearest, + log(m) / d: log density in units of inverse radius.

    The mean steadies the single distance: Loftsgaarden & Quesenberry (1965) for the k-NN density itself, Angiulli &
    Pizzuti (2002) for the mean over k as a measure of sparseness. Radius^−1 ∝ density^(1/d), so that the dimension
    matters only for copies.
    """
    return -np.log(np.maximum(spacing.mean(axis=1, dtype=np.float64), _TINY)) + np.log(copies) / dimension


def kth_distance(spacing: np.ndarray, dimension: float, copies: Copies = 1) -> np.ndarray:
    """−d · log of the k-th distance, + log(m): the k-NN density k / (N · V_d · r_k^d) up to a constant.

    Loftsgaarden & Quesenberry, "A nonparametric estimate of a multivariate density function" (1965), with d the
    intrinsic dimension in place of the number of columns.
    """
    return -dimension * np.log(np.maximum(spacing[:, -1].astype(np.float64), _TINY)) + np.log(copies)


def inverse_cosine(spacing: np.ndarray, dimension: float, copies: Copies = 1) -> np.ndarray:
    """log of the mean cosine similarity c to the k nearest, from distances between unit vectors: cos = 1 − δ²/2.

    The project's origin weighed by the inverse of this mean. δ² shrinks with density as density^(−2/d), so m copies
    make 1 − c smaller by m^(−2/d). Means at or under 0 count as the smallest above it.
    """
    return _log_cosine(1 - np.square(spacing, dtype=np.float64).mean(axis=1) / 2, dimension, copies)


def _log_cosine(cosine: np.ndarray, dimension: float, copies: Copies) -> np.ndarray:
    cosine = 1 - (1 - cosine) * np.power(np.float64(copies), -2 / dimension)
    floor = cosine[cosine > 0].min() if (cosine > 0).any() else 1.0
    return np.log(np.maximum(cosine, floor))


ESTIMATORS: dict[str, Callable[..., np.ndarray]] = {
    "mean_distance": mean_distance,
    "kth_distance": kth_distance,
    "inverse_cosine": inverse_cosine,
}


def intrinsic_dimension(spacing: np.ndarray, copies: Copies = 1) -> float:
    """Intrinsic dimension at the scale of k neighbours, at least 1; 1 if there are too few to tell.

    Maximum likelihood from the distances [N, k] to distinct others, averaged over distinct rows as inverses: Levina &
    Bickel, "Maximum likelihood estimation of intrinsic dimension" (NIPS 2004), corrected by MacKay & Ghahramani (2005).
    """
    if spacing.shape[1] < 2:
        return 1.0
    distances = np.maximum(spacing.astype(np.float64), _TINY)
    ratios = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    inverse = np.average(ratios, weights=np.broadcast_to(1 / np.float64(copies), ratios.shape))
    return float(max(1.0, 1.0 / inverse)) if inverse > 0 else 1.0


def two_nn(spacing: np.ndarray) -> float:
    """Intrinsic dimension at the smallest scale, from the two nearest distances; at least 1.

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
    halves: Halves | None, k: int, dimension: float, estimator: str, single: np.ndarray, copies: Copies = 1
) -> tuple[float | None, float | None]:
    """Reliability r of the log density, and its noise σ² = (1 − r) · var(log density); None where not measured.

    If an estimate is signal plus independent noise, the correlation r½ of two halves is the signal's share of a
    half's variance. A half has half the density, so k / 2 neighbours reach as far in it as k do in the whole; the
    whole's reliability follows by r = 2 r½ / (1 + r½) (Spearman 1910, Brown 1910). A negative r½ counts as 0. The
    variance is that of distinct vectors, `single` [N] without what copies add: copying is no noise.
    """
    if halves is None or np.ptp(single) == 0:
        return None, None
    used = max(1, min(k // 2, halves.first.shape[1]))
    one, two = (ESTIMATORS[estimator](side[:, :used], dimension) for side in (halves.first, halves.second))
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return None, None
    half = max(0.0, float(np.corrcoef(one, two)[0, 1]))
    r = 2 * half / (1 + half)
    weights = np.broadcast_to(1 / np.float64(copies), single.shape)
    variance = np.average((single - np.average(single, weights=weights)) ** 2, weights=weights)
    return r, (1 - r) * float(variance)


def _mean_cosines(neighbors: Neighbors, used: int, embeddings: Embeddings | None) -> np.ndarray:
    """Mean cosine [N] of every row with its neighbours, one neighbour rank at a time to keep memory at [N, D]."""
    if neighbors.targets is not None:
        raise OptionError("inverse_cosine of queries needs cosine neighbours: search with metric='cosine'.")
    source = neighbors.source if embeddings is None else embeddings
    if source is None:
        raise OptionError("inverse_cosine with Euclidean neighbours needs the vectors: pass embeddings=.")
    x = np.asarray(source.vectors if isinstance(source, Embeddings) else source, np.float32)
    if len(x) != len(neighbors):
        raise MismatchError(f"There are {len(x):,} embeddings and {len(neighbors):,} rows of neighbours.")
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    total = np.zeros(len(unit))
    for rank in range(used):
        total += np.einsum("nd,nd->n", unit, unit[neighbors.indices[:, rank]])
    return total / used
