"""Numbers of one pair, from the rewards of its two completions. All take arrays [P] and return float64 [P].

The label of a pair is always "chosen": a model is right where it rewards chosen more.
"""

from __future__ import annotations

import numpy as np

METRICS = ("accuracy", "margin", "log_loss", "ece")
ECE_BINS = 10


def margins(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Return reward(chosen) − reward(rejected): log-odds, under Bradley & Terry (1952), that chosen is preferred."""
    return np.asarray(chosen, np.float64) - np.asarray(rejected, np.float64)


def wins(margin: np.ndarray) -> np.ndarray:
    """Return 1 where chosen has the higher reward, 0 where rejected has, ½ for a tie. Its mean is accuracy."""
    return (np.sign(margin) + 1) / 2


def log_losses(margin: np.ndarray) -> np.ndarray:
    """Return −log σ(margin), in nats, without overflow: what a reward model is trained on."""
    return np.logaddexp(0.0, -np.asarray(margin, np.float64))


def confidences(margin: np.ndarray) -> np.ndarray:
    """Return σ(|margin|): how sure the model is of the completion that it prefers, between ½ and 1."""
    return 1 / (1 + np.exp(-np.abs(margin)))


def ece_cells(margin: np.ndarray) -> np.ndarray:
    """Return the calibration bin [P] int of each pair: one of ECE_BINS equal parts of the confidences from ½ to 1."""
    return np.minimum(((confidences(margin) - 0.5) * 2 * ECE_BINS).astype(int), ECE_BINS - 1)


def ece(confidence: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the expected calibration error from the sums of each bin, over the last axis [..., ECE_BINS].

    Σ_b |Σ w·confidence − Σ w·right| / Σ w: how far a model is, on average, from being right as often as it is sure
    (Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017). The label of a pair is
    always "chosen", so that calibration of σ(margin) itself would say nothing; it is measured of the preferred
    completion, for which σ(margin) and σ(−margin) say the same.
    """
    return np.abs(confidence - right).sum(axis=-1) / weight.sum(axis=-1)
