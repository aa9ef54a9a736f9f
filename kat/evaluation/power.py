"""What an evaluation can see at all: the smallest difference that it would find most of the time."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

LEVEL, POWER = 0.05, 0.8


def cluster_error(values: np.ndarray, weights: np.ndarray, cluster: np.ndarray) -> float:
    """Return the standard error of Σ w·x / Σ w over pairs [P] in clusters [P] int; NaN for fewer than two clusters.

    Linearised: residuals w·(x − mean) are summed in each of X clusters, e_x, and √(X / (X − 1) · Σ e_x²) / Σ w
    (Taylor series of a ratio estimator; Särndal, Swensson & Wretman, Model Assisted Survey Sampling, 1992, § 5.5).
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    mean = float((weights * values).sum() / weights.sum())
    residuals = np.bincount(cluster, weights * (values - mean))
    n = len(np.unique(cluster))
    if n < 2:
        return float("nan")
    return float(np.sqrt(n / (n - 1) * np.square(residuals).sum()) / weights.sum())


def detectable(error: float, level: float = LEVEL, power: float = POWER) -> float:
    """Return the minimum detectable effect of a two-sided test: (z₁₋α/₂ + z_power) · standard error (Bloom, "Minimum
    detectable effects", Evaluation Review 19, 1995).

    NaN for an error of 0: where nothing was seen to vary, nothing is known of what could be seen.
    """
    if error == 0:
        return float("nan")
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * error
