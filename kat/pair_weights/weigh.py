"""Density weights of openings → weights of pairs: v = min(cap, s · f · (β·u + 1 − β)), mean 1 over the training pairs.

f = m^(a−1) is the factor of multiplicity. Under plain training an opening with m pairs counts m times, which weights
over distinct openings do not undo: drawing pairs is cluster sampling, with openings as clusters (Kish, Survey Sampling,
1965, ch. 5). InstructGPT makes the comparisons of one prompt a single example for the same reason (Ouyang et al. 2022,
§ 3.5). Times its weight, an opening of m pairs counts m with a = 1, √m with a = ½ and 1 with a = 0.

u = within(smooth(w)) is the weight of the opening, evened out within strata or between them and scaled so that
Σ f·u = Σ f. β·u + 1 − β is the defensive mixture of importance sampling (Hesterberg, "Weighted average importance
sampling and defensive mixture distributions", Technometrics 37, 1995): v is at least s · (1 − β) · f, so that no pair
falls under a share of what it would weigh without density.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.array_records import ArrayRecord, number, span
from kat.density.weights import heaviest_share, project, solve_temperature
from kat.errors import InputError, OptionError
from kat.pair_config import PairOptions
from kat.parameters import explained_keywords, one_of
from kat.plots import histogram
from kat.statistics import effective_sample_size, spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXPONENTS = {"pair": 1.0, "sqrt": 0.5, "opening": 0.0}
"""a of m^(a−1), by name: what an opening's total weight grows with."""


@dataclass(frozen=True, eq=False, repr=False)
class PairWeighting(ArrayRecord):
    """The weights `values` [P] of P training pairs, mean 1, with what they were made of and what they amount to.

    `m` [P] are the pairs of each pair's opening, `factor` [P] = m^(a−1) and `u` [P] the evened-out weight before it was
    blended. `scale` is s: without a cap, a pair weighs s · factor · (blend · u + 1 − blend). `mean_raw` is the mean of
    factor · w over the pairs: training with those would have scaled the learning rate by it. Effective sample sizes
    (Σx)² / Σx² are of w over the openings, of v over the pairs, and of the openings' totals m·v.
    """

    values: np.ndarray
    m: np.ndarray
    factor: np.ndarray
    u: np.ndarray
    multiplicity: str
    cap: float
    blend: float
    scale: float
    mean_raw: float
    ess_openings: float
    ess_pairs: float
    ess_clusters: float
    openings: int

    def __len__(self) -> int:
        return len(self.values)

    def _facts(self) -> Iterator[str]:
        yield number(len(self), "pair")
        yield number(self.openings, "opening")
        yield f"multiplicity {self.multiplicity}"
        yield f"blend {self.blend:.3g}"
        yield f"ESS {self.ess_pairs / len(self):.1%} of pairs"
        yield f"v {span(self.values)}"

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw how often each weight occurs; return matplotlib's axes. Raises MissingExtraError without matplotlib."""
        return histogram({"v": self.values}, repr(self), "v (mean 1)", "pairs", axes)

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
            "blend": self.blend,
            "scale": self.scale,
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


@explained_keywords
def weigh_pairs(
    opening: np.ndarray,
    w: np.ndarray,
    multiplicity: str = PairOptions.multiplicity,
    cap: float = PairOptions.cap,
    *,
    blend: float = PairOptions.blend,
    smooth: np.ndarray | None = None,
    within: np.ndarray | None = None,
) -> PairWeighting:
    """Return weights of training pairs from the density weights of their openings.

    `opening` [P] int are rows of `w` [X]; an opening without a pair takes no part. Scaling all of w changes nothing.
    `smooth` and `within` [P] int number the stratum of each pair: see `even_out`. `blend` is β of the defensive
    mixture: 1 for the density weights alone, 0 for none of them.

    Raises InputError for no pairs or a weight that is not finite and positive; OptionError for an unknown
    multiplicity, a cap below 1 or a blend outside [0, 1].

    >>> weighting = kat.weigh_pairs(opening=np.array([0, 0, 0, 1]), w=np.array([0.5, 1.5]), blend=1.0)
    >>> weighting.values.round(2).tolist()
    [0.67, 0.67, 0.67, 2.0]
    """
    opening, w = np.asarray(opening), np.asarray(w, np.float64)
    bad = ~(np.isfinite(w) & (w > 0))
    if count := len(np.unique(opening[bad[opening]])):
        raise InputError(f"{count:,} openings of training pairs have a weight that is not a positive number.")
    factor = multiplicity_factor(opening, multiplicity)
    u = even_out(w[opening], factor, smooth=smooth, within=within)
    return blend_weights(u, opening, w[opening], multiplicity=multiplicity, cap=cap, blend=blend)


def multiplicity_factor(opening: np.ndarray, multiplicity: str) -> np.ndarray:
    """Return m^(a−1) [P] of pairs whose openings are numbered [P]. Raises OptionError for an unknown multiplicity."""
    one_of("multiplicity", multiplicity, tuple(EXPONENTS))
    m = np.bincount(opening, minlength=1)[opening]
    return m ** (EXPONENTS[multiplicity] - 1)


def even_out(
    w: np.ndarray, factor: np.ndarray, *, smooth: np.ndarray | None = None, within: np.ndarray | None = None
) -> np.ndarray:
    """Return u [P] = within(smooth(w)) of the weights w [P] of pairs, so that Σ factor·u = Σ factor.

    With `smooth` [P] int, w becomes its factor-weighted mean within each stratum: strata are weighed, not what stands
    alone in one. With `within` [P] int, the promise holds inside each stratum, so that none gives weight to another.
    """
    w = np.asarray(w, np.float64)
    if smooth is not None:
        smooth = np.unique(smooth, return_inverse=True)[1]
        w = (np.bincount(smooth, factor * w) / np.bincount(smooth, factor))[smooth]
    stratum = np.zeros(len(w), np.int64) if within is None else np.unique(within, return_inverse=True)[1]
    return w * (np.bincount(stratum, factor) / np.bincount(stratum, factor * w))[stratum]


def blend_weights(
    u: np.ndarray,
    opening: np.ndarray,
    w: np.ndarray | None = None,
    *,
    multiplicity: str = PairOptions.multiplicity,
    cap: float = PairOptions.cap,
    blend: float = PairOptions.blend,
) -> PairWeighting:
    """Return the weights of pairs from u [P] of `even_out`: min(cap, s · f · (β·u + 1 − β)) with mean 1.

    `opening` [P] numbers the pairs' openings; `w` [P], u by default, is what the report says of the openings' own
    weights. Raises what `weigh_pairs` raises.
    """
    if not 1 <= cap < np.inf:
        raise OptionError(f"cap is {cap}; weights of mean 1 need a cap of at least 1.")
    if not 0 <= blend <= 1:
        raise OptionError(f"blend is {blend}; expected a number from 0 (uniform) to 1 (density alone).")
    if not len(opening):
        raise InputError("There are no training pairs to weigh.")
    w = u if w is None else w
    factor = multiplicity_factor(opening, multiplicity)
    raw = factor * (blend * u + (1 - blend))
    values = project(-np.log(raw), 1.0, cap)
    m = np.bincount(opening)
    asked = m > 0
    lightest = int(np.argmin(raw))  # under the cap if any pair is
    return PairWeighting(
        values=values,
        m=m[opening],
        factor=factor,
        u=u,
        multiplicity=multiplicity,
        cap=cap,
        blend=blend,
        scale=float(values[lightest] / raw[lightest]),
        mean_raw=float((factor * w).mean()),
        ess_openings=effective_sample_size(np.bincount(opening, w)[asked] / m[asked]),
        ess_pairs=effective_sample_size(values),
        ess_clusters=effective_sample_size(np.bincount(opening, values)[asked]),
        openings=int(asked.sum()),
    )


def group_weights(group: np.ndarray, ess: float, cap: float) -> tuple[np.ndarray, float]:
    """Return weights [P] of pairs by the group that each is known to be of, `group` [P] int, and their temperature T.

    A pair weighs share^−T, where the share is its group's of all pairs: T = 1 lets every group count the same (as
    group-balanced training does; Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy",
    CLeaR 2022), and is lowered until the effective sample size is at least `ess` of the pairs.
    """
    place, counts = np.unique(group, return_inverse=True, return_counts=True)[1:]
    log_share = np.log(counts[place] / len(place))
    temperature, _ = solve_temperature(log_share, ess, cap, 1.0)
    return project(log_share, temperature, cap), temperature


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
