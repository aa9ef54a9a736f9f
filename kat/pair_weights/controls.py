"""What density weights are to be compared with: weights of openings made without any geometry."""

from __future__ import annotations

import numpy as np

from kat.density.weights import weigh
from kat.parameters import one_of
from kat.statistics import effective_sample_size

CONTROLS = ("uniform", "permuted", "multiplicity", "length")


def control_weights(control: str, w: np.ndarray, training: np.ndarray, length: np.ndarray, seed: int) -> np.ndarray:
    """Return weights [X] of openings that a density weight is to be compared with, in place of w [X].

    "uniform" and "multiplicity" are 1: the factor of multiplicity, if there is one, is all that is left. "permuted" are
    the same weights, shuffled among the openings that train (`training` [X] bool): the same ESS over openings,
    and no geometry. "length" is min(cap, s · length^−T), with T solved for the ESS of w: what a rule of thumb would
    do, as far from uniform as w is.

    Raises OptionError for an unknown control.
    """
    one_of("control", control, CONTROLS)
    weights = np.ones(len(w))
    rows = np.flatnonzero(training)
    if control == "permuted":
        weights = np.array(w, np.float64)
        weights[rows] = np.random.default_rng(seed).permutation(weights[rows])
    elif control == "length":
        trained = np.asarray(w, np.float64)[rows]
        share = min(effective_sample_size(trained) / len(trained), 1.0)
        highest = float(trained.max() / trained.mean()) * (1 + 1e-9)
        weights[rows] = weigh(np.maximum(length[rows], 1), ess=share, cap=max(highest, 1.0)).values
    return weights
