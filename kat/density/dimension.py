"""Intrinsic dimension: how many coordinates the vectors use at the scale of their neighbours, however many columns.

Densities feel it in one place: m rows that share a vector make a place m times as crowded, and a radius shrinks with
density as density^(−1/d).
"""

from __future__ import annotations

import numpy as np

TINY = np.finfo(np.float64).tiny
"""The smallest distance that a logarithm is taken of."""

_ROWS = 65_536
"""Rows whose logarithms are taken at once."""

Duplicates = np.ndarray | int
"""Rows that share a row's vector, itself included: [N], or 1 for all."""


def intrinsic_dimension(distances: np.ndarray, duplicates: Duplicates = 1) -> float:
    """Return the intrinsic dimension at the scale of k neighbours, at least 1; 1 if there are too few to tell.

    Maximum likelihood from the distances [N, k] to distinct others, averaged over distinct rows as inverses: Levina &
    Bickel, "Maximum likelihood estimation of intrinsic dimension" (NIPS 2004), corrected by MacKay & Ghahramani (2005).
    """
    if distances.shape[1] < 2:
        return 1.0
    starts = range(0, len(distances), _ROWS)
    ratios = np.concatenate([_log_ratios(distances[start : start + _ROWS]) for start in starts])
    inverse = np.average(ratios, weights=np.broadcast_to(1 / np.float64(duplicates), ratios.shape))
    return float(max(1.0, 1.0 / inverse)) if inverse > 0 else 1.0


def _log_ratios(distances: np.ndarray) -> np.ndarray:
    """The mean over a row's neighbours of log(distance to the farthest / its distance), [N]."""
    radii = np.maximum(distances.astype(np.float64), TINY)
    return np.log(radii[:, -1:] / radii[:, :-1]).mean(axis=1)


def two_nn(distances: np.ndarray, duplicates: Duplicates = 1) -> float:
    """Return the intrinsic dimension at the smallest scale, from the two nearest of the distances [N, k]; at least 1.

    TwoNN, Facco, d'Errico, Rodriguez & Laio, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information", Scientific Reports 7 (2017): the ratio μ of the second to the first distance is Pareto
    of exponent d. Maximum likelihood, d = n / Σ log μ, after leaving out the largest tenth of the ratios as they do;
    the likelihood of a sample censored there counts what was left out at its threshold.

    `duplicates` is taken so that every dimension is called alike, and not used: every row counts once.
    """
    if distances.shape[1] < 2 or len(distances) < 3:
        return 1.0
    two = np.maximum(distances[:, :2].astype(np.float64), TINY)
    ratios = np.sort(np.log(two[:, 1] / two[:, 0]))
    kept = max(1, int(0.9 * len(ratios)))
    total = ratios[:kept].sum() + (len(ratios) - kept) * ratios[kept - 1]
    return float(max(1.0, kept / total)) if total > 0 else 1.0
