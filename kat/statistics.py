"""Small statistics of vectors of numbers: ranks, quantiles, effective sample size, density bins, mean cosine."""

from __future__ import annotations

import numpy as np

BINS = 5
"""Density bins: fifths of the openings that train."""


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks [N] from 0, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation of x [N] and y [N], with ties; NaN if either is constant."""
    x, y = ranks(np.asarray(x)), ranks(np.asarray(y))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return some quantiles by name, for a summary."""
    names = {"1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99}
    return {name: float(np.quantile(values, q)) for name, q in names.items()}


def effective_sample_size(values: np.ndarray) -> float:
    """Return (Σw)² / Σw² of weights [N] (Kish, Survey Sampling, 1965): how many equal weights would vary as much."""
    values = np.asarray(values, np.float64)
    return float(values.sum() ** 2 / np.square(values).sum())


def density_bins(log_density: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return the density bin [X] int8 of each opening: 0 is the rarest fifth of those that train, −1 is not known."""
    known = np.isfinite(log_density)
    edges = np.quantile(log_density[training & known], np.arange(1, BINS) / BINS)
    return np.where(known, np.searchsorted(edges, log_density, side="right"), -1).astype(np.int8)


def mean_pair_cosine(vectors: np.ndarray, *, center: bool = False) -> float:
    """Return the mean cosine over all pairs of different rows of [N, D]: how far they crowd around one direction.

    From (|Σu|² − N) / (N (N − 1)) for unit vectors u, in one pass and constant memory; `center` takes the mean of the
    rows off first. NaN for fewer than two rows. Ethayarajh, "How contextual are contextualized word
    representations?" (EMNLP 2019) calls it anisotropy.
    """
    n = len(vectors)
    if n < 2:
        return float("nan")
    mean = vectors.mean(axis=0, dtype=np.float64) if center else 0.0
    total, squares = np.zeros(vectors.shape[1]), 0.0
    for start in range(0, n, 8192):
        rows = vectors[start : start + 8192] - mean
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units = np.divide(rows, norms, out=np.zeros_like(rows, np.float64), where=norms > 0)
        total += units.sum(axis=0)
        squares += float(np.square(units).sum())
    return float((total @ total - squares) / (n * (n - 1)))
