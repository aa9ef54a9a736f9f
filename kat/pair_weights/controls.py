"""What density weights are to be compared with: weights of pairs made without any geometry."""

from __future__ import annotations

import numpy as np

from kat.density.weights import weigh
from kat.parameters import one_of
from kat.statistics import effective_sample_size

CONTROLS = ("uniform", "permuted", "multiplicity", "length")
LEAST_UNITS, DRAWS = 20, 32
"""Units of a stratum at least, within which weights are permuted, and permutations drawn."""


def control_weights(control: str, w: np.ndarray, training: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return weights [X] of openings that a density weight is to be compared with, in place of w [X].

    "uniform" and "multiplicity" are 1: the factor of multiplicity, if there is one, is all that is left. "permuted" is
    w itself, for it is permuted when it is finished (`permuted`). "length" is min(cap, s · length^−T), with T solved
    for the ESS of w over the openings that train (`training` [X] bool): what a rule of thumb would do, as far from
    uniform as w is.

    Raises OptionError for an unknown control.
    """
    one_of("control", control, CONTROLS)
    if control == "permuted":
        return np.asarray(w, np.float64)
    weights = np.ones(len(w))
    rows = np.flatnonzero(training)
    if control == "length":
        trained = np.asarray(w, np.float64)[rows]
        share = min(effective_sample_size(trained) / len(trained), 1.0)
        highest = float(trained.max() / trained.mean()) * (1 + 1e-9)
        weights[rows] = weigh(np.maximum(length[rows], 1), ess=share, cap=max(highest, 1.0)).values
    return weights


def permuted(
    u: np.ndarray,
    opening: np.ndarray,
    factor: np.ndarray,
    seed: int,
    *,
    smooth: np.ndarray | None = None,
    within: np.ndarray | None = None,
    draws: int = DRAWS,
) -> np.ndarray:
    """Return u [P] of `even_out` with its values permuted: the same weights without the geometry that they came from.

    What moves is the value of an opening; under `smooth` [P] int that of a stratum, for there a stratum has one value.
    Openings trade values with others of about as many pairs (strata of at least LEAST_UNITS in the order of m), so that
    the effective sample size over pairs stays about what it was; under `within` [P] int none leaves its stratum. A few
    openings of very many pairs can make the difference all the same: of `draws` permutations the one whose effective
    sample size is nearest is taken (Morgan & Rubin, "Rerandomization to improve covariate balance in experiments",
    Annals of Statistics 40, 2012). The result is scaled as u was: Σ factor·u = Σ factor, inside each stratum of
    `within`.
    """
    inside = np.zeros(len(u), np.int64) if within is None else np.unique(within, return_inverse=True)[1]
    owner = np.unique(opening if smooth is None else smooth, return_inverse=True)[1]
    _, first, unit = np.unique(inside * (owner.max() + 1) + owner, return_index=True, return_inverse=True)
    strata = _alike(inside[first], np.bincount(unit))
    target_ess, draw = effective_sample_size(factor * u), np.random.default_rng(seed)
    best, nearest = u, np.inf
    for _ in range(draws):
        values = u[first]
        for stratum in strata:
            values[stratum] = values[draw.permutation(stratum)]
        moved = values[unit]
        moved *= (np.bincount(inside, factor) / np.bincount(inside, factor * moved))[inside]
        off = abs(effective_sample_size(factor * moved) / target_ess - 1)
        if off < nearest:
            best, nearest = moved, off
    return best


def _alike(inside: np.ndarray, size: np.ndarray) -> list[np.ndarray]:
    """Return the units of each stratum: of one number `inside` [U], and of like `size` [U].

    Units of one size stay together; a size that fewer than LEAST_UNITS have is joined with the next one.
    """
    strata: list[np.ndarray] = []
    for number in np.unique(inside):
        own = np.flatnonzero(inside == number)
        own = own[np.argsort(size[own], kind="stable")]
        ends = np.append(np.flatnonzero(np.diff(size[own])) + 1, len(own))
        begins = [0]
        for end in ends.tolist():
            if end - begins[-1] >= LEAST_UNITS and (len(own) - end >= LEAST_UNITS or end == len(own)):
                begins.append(end)
        parts = [own[a:b] for a, b in zip(begins, [*begins[1:], len(own)], strict=True)]
        strata += [part for part in parts if len(part)]
    return strata
