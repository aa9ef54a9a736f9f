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
