"""Small statistics of weights."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks [N] from 0, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation with ties; NaN if either is constant."""
    x, y = ranks(np.asarray(x)), ranks(np.asarray(y))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Some quantiles by name, for a summary."""
    names = {"1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99}
    return {name: float(np.quantile(values, q)) for name, q in names.items()}


def mean_pair_cosine(vectors: np.ndarray, *, center: bool = False) -> float:
    """Mean cosine over all pairs of different rows of [N, D]: how far the vectors crowd around one direction.

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
