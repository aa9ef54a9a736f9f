"""Cluster bootstrap: openings are drawn with replacement, and their pairs with them.

Pairs of one opening are alike, so that intervals over pairs are too narrow (Cameron, Gelbach & Miller, "Bootstrap-based
improvements for inference with clustered errors", Review of Economics and Statistics 90, 2008). Every statistic here
is a function of sums over openings; a replicate is a vector of how often each opening was drawn, and all statistics
of a replicate come from the same draw.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

REPLICATES = 2000
LEVEL = 0.95
_CELLS = 1 << 24
"""Counts that are held at a time: 128 MB of float64."""


def replicate(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """Return the statistic [R, S] in R replicates.

    `sums` [X, C] are columns summed over the pairs of each of X openings, and `statistic` maps totals [R, C] to [R, S].
    """
    rng = np.random.default_rng(seed)
    n, values = len(sums), []
    block = max(1, min(replicates, _CELLS // max(n, 1)))
    for start in range(0, replicates, block):
        counts = _drawn(rng, min(block, replicates - start), n)
        values.append(statistic(counts @ sums))
    return np.concatenate(values)


def _drawn(rng: np.random.Generator, replicates: int, n: int) -> np.ndarray:
    """Return how often each of n openings is drawn in n draws with replacement, [R, n] float64."""
    # One bincount for all replicates: replicate r counts in the cells from r · n on.
    rows = rng.integers(0, n, (replicates, n))
    rows += np.arange(replicates)[:, None] * n
    return np.bincount(rows.ravel(), minlength=replicates * n).reshape(replicates, n).astype(np.float64)


def interval(values: np.ndarray, effective: float, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the middle of the replicates [R]: an expanded percentile interval.

    A bootstrap of n clusters is too narrow by √((n − 1) / n), and takes the error for as good as known; so quantiles
    are taken at Φ(−√(n / (n − 1)) · t) with the t of n − 1 degrees of freedom (Hesterberg, "What teachers should know
    about the bootstrap", The American Statistician 69, 2015, § 5). `effective` is that n: the openings, or fewer where
    some of them weigh more, (Σw)² / Σw². None for fewer than two, or if over a tenth of the replicates have no value.
    """
    finite = values[np.isfinite(values)]
    if effective <= 2 or len(finite) < 0.9 * len(values):
        return None
    t = student_quantile((1 + level) / 2, effective - 1)
    tail = NormalDist().cdf(-t * (effective / (effective - 1)) ** 0.5)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t, by the normal one's expansion (Abramowitz & Stegun 26.7.5): to 1 % from 2
    degrees of freedom on and 0.01 % from 6 on, at 97.5 %."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def effective_clusters(weights: np.ndarray) -> float:
    """Return (Σw)² / Σw² of the weights [X] of clusters: how many equal ones would say as much (Kish, Survey
    Sampling, 1965)."""
    weights = np.asarray(weights, np.float64)
    return float(weights.sum() ** 2 / np.square(weights).sum())
