"""Systematic sampling in proportion to weight: a subset without replacement, or the counts of a training pass.

One uniform number decides a whole draw, so every count is within one of its expectation: the least random draw that
is still unbiased. Madow, "On the theory of systematic sampling, II", Annals of Mathematical Statistics 20 (1949).
"""

from __future__ import annotations

import numpy as np

from kat.errors import InputError, OptionError


def inclusion_probabilities(weights: np.ndarray, budget: int) -> np.ndarray:
    """Return probabilities [N] of being in a sample of `budget` rows: min(1, b · w / Σw), summing to the budget.

    Rows that reach 1 are taken for certain, and the rest is shared in proportion to weight, until none goes
    over 1 (probability-proportional-to-size sampling with take-all rows; Särndal, Swensson & Wretman 1992, § 3.6).

    Raises OptionError for a budget outside 1 … N, InputError for weights that are not finite and positive.
    """
    weights = _checked(weights)
    n = len(weights)
    if not 1 <= budget <= n:
        raise OptionError(f"budget is {budget:,}; expected 1 to N = {n:,} openings.")
    order = np.argsort(-weights, kind="stable")
    heavy = weights[order]
    rest = np.cumsum(heavy[::-1])[::-1]  # Σ of this row and all lighter ones
    left = budget - np.arange(n)
    certain = int(np.argmax(heavy * left < rest)) if (heavy * left < rest).any() else n
    probabilities = np.ones(n)
    if certain < min(n, budget):
        probabilities[certain:] = heavy[certain:] * (left[certain] / rest[certain])
    elif budget < n:
        probabilities[budget:] = 0.0
    by_row = np.empty(n)
    by_row[order] = np.minimum(probabilities, 1.0)
    return by_row


def sample(weights: np.ndarray, budget: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows [budget] without replacement, ascending, and the inclusion probability [N] of every row.

    Same weights, budget and seed: same draw.
    """
    probabilities = inclusion_probabilities(weights, budget)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(probabilities))  # neighbours in the file must not exclude each other
    counts = _systematic(probabilities[order], budget, rng.random())
    return np.sort(order[counts > 0]), probabilities


def draw_pass(weights: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Draw the rows [draws] of one training pass, shuffled: row i appears ⌊n·wᵢ/Σw⌋ or ⌈n·wᵢ/Σw⌉ times.

    Raises OptionError for a negative number of draws.
    """
    weights = _checked(weights)
    if draws < 0:
        raise OptionError(f"draws is {draws}; expected 0 or more.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(weights))
    counts = _systematic(weights[order] * (draws / weights.sum()), draws, rng.random())
    return rng.permutation(np.repeat(order, counts))


def _systematic(expected: np.ndarray, total: int, start: float) -> np.ndarray:
    """Counts [N] int64 of the grid points start, start + 1, … in the intervals that `expected` cuts [0, total) into."""
    ends = np.cumsum(expected)
    ends[-1] = total  # rounding must not lose the last point
    # Snap sums within rounding of a grid point, so that no whole expectation is missed or met twice.
    reached = np.clip(np.ceil(ends - start - 1e-9), 0, total).astype(np.int64)
    return np.diff(reached, prepend=0)


def _checked(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not len(weights):
        raise InputError(f"Weights have shape {weights.shape}; expected a vector [N] with N of at least 1.")
    bad = ~(np.isfinite(weights) & (weights > 0))
    if bad.any():
        raise InputError(f"Weight {weights[np.argmax(bad)]} of row {int(np.argmax(bad))} is not a positive number.")
    return weights
