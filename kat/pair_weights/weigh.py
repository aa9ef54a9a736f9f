"""Density weights of openings → weights of pairs: v = min(cap, s · m^(a−1) · w), mean 1 over the training pairs.

Under plain training an opening with m pairs counts m times, which weights over distinct openings do not undo: drawing
pairs is cluster sampling, with openings as clusters (Kish, Survey Sampling, 1965, ch. 5). InstructGPT makes the
comparisons of one prompt a single example for the same reason (Ouyang et al. 2022, § 3.5). With a = 1 an opening
counts m·w, with a = ½ √m·w, with a = 0 it counts w, however many pairs it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.config import PairOptions
from kat.density.weights import heaviest_share, project
from kat.errors import InputError, OptionError
from kat.parameters import one_of
from kat.statistics import effective_sample_size, spearman

EXPONENTS = {"pair": 1.0, "sqrt": 0.5, "opening": 0.0}
"""a of m^(a−1), by name: what an opening's total weight grows with."""


@dataclass(frozen=True)
class PairWeighting:
    """The weights `values` [P] of P training pairs, mean 1, with what they were made of and what they amount to.

    `m` [P] are the pairs of each pair's opening and `factor` [P] = m^(a−1). `mean_raw` is the mean of factor · w over
    the pairs before it was made 1: training with those would have scaled the learning rate by it. Effective sample
    sizes (Σx)² / Σx² are of w over the openings, of v over the pairs, and of the openings' totals m·v.
    """

    values: np.ndarray
    m: np.ndarray
    factor: np.ndarray
    multiplicity: str
    cap: float
    mean_raw: float
    ess_openings: float
    ess_pairs: float
    ess_clusters: float
    openings: int

    @property
    def cap_hits(self) -> int:
        """How many pairs the cap holds."""
        return int((self.values >= self.cap * (1 - 1e-6)).sum())

    def facts(self, length: np.ndarray) -> dict[str, Any]:
        """Return the numbers of a report. `length` [P] is that of each pair's opening."""
        n = len(self.values)
        return {
            "pairs": n,
            "openings": self.openings,
            "multiplicity": self.multiplicity,
            "cap": self.cap,
            "cap_hits": self.cap_hits,
            "max": float(self.values.max()),
            "min": float(self.values.min()),
            "mean_before_normalising": self.mean_raw,
            "ess_openings": self.ess_openings,
            "ess_openings_share": self.ess_openings / self.openings,
            "ess_pairs": self.ess_pairs,
            "ess_pairs_share": self.ess_pairs / n,
            "ess_clusters": self.ess_clusters,
            "ess_clusters_share": self.ess_clusters / self.openings,
            "heaviest_1_percent_share": heaviest_share(self.values),
            "rank_correlation_m": _finite(spearman(self.values, self.m)),
            "rank_correlation_length": _finite(spearman(self.values, length)),
        }


def weigh_pairs(
    opening: np.ndarray,
    w: np.ndarray,
    multiplicity: str = PairOptions.multiplicity,
    cap: float = PairOptions.cap,
) -> PairWeighting:
    """Return weights of training pairs from the density weights of their openings.

    `opening` [P] int are rows of `w` [X]; an opening without a pair takes no part. Scaling all of w changes nothing.

    Raises InputError for no pairs or a weight that is not finite and positive; OptionError for an unknown
    multiplicity or a cap below 1.
    """
    one_of("multiplicity", multiplicity, tuple(EXPONENTS))
    if not 1 <= cap < np.inf:
        raise OptionError(f"cap is {cap}; weights of mean 1 need a cap of at least 1.")
    opening, w = np.asarray(opening), np.asarray(w, np.float64)
    if not len(opening):
        raise InputError("There are no training pairs to weigh.")
    counts = np.bincount(opening, minlength=len(w))
    asked = counts > 0
    if bad := int((~(np.isfinite(w) & (w > 0)) & asked).sum()):
        raise InputError(f"{bad:,} openings of training pairs have a weight that is not a positive number.")
    m = counts[opening]
    factor = m ** (EXPONENTS[multiplicity] - 1)
    raw = factor * w[opening]
    values = project(-np.log(raw), 1.0, cap)
    totals = np.bincount(opening, values, minlength=len(w))[asked]
    return PairWeighting(
        values=values,
        m=m,
        factor=factor,
        multiplicity=multiplicity,
        cap=cap,
        mean_raw=float(raw.mean()),
        ess_openings=effective_sample_size(w[asked]),
        ess_pairs=effective_sample_size(values),
        ess_clusters=effective_sample_size(totals),
        openings=int(asked.sum()),
    )


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def normalised(weights: np.ndarray) -> np.ndarray:
    """Return weights [P] with mean 1.

    Raises InputError for none, or for weights that are negative, not finite, or all 0.
    """
    weights = np.asarray(weights, np.float64)
    if not len(weights):
        raise InputError("No pair is left to train.")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("Pair weights must be finite numbers from 0 up, and not all 0.")
    mean = float(weights.mean())
    return weights if abs(mean - 1) < 1e-9 else weights / mean
