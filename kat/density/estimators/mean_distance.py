"""Density from the mean distance to the k nearest: the default."""

from __future__ import annotations

import numpy as np

from kat.density.dimension import TINY, Duplicates
from kat.density.estimators import Estimator


def mean_distance(distances: np.ndarray, dimension: float, duplicates: Duplicates = 1) -> np.ndarray:
    """Return −log of the mean distance to the k nearest, + log(m) / d: log density in units of inverse radius, [N].

    The mean steadies the single distance: Loftsgaarden & Quesenberry (1965) for the k-NN density itself, Angiulli &
    Pizzuti (2002) for the mean over k as a measure of sparseness. Radius^−1 ∝ density^(1/d), so that the dimension
    matters only for duplicates.
    """
    return -np.log(np.maximum(distances.mean(axis=1, dtype=np.float64), TINY)) + np.log(duplicates) / dimension


PLUGIN = Estimator(
    name="mean_distance",
    help="The inverse of the mean distance to the k nearest distinct others.",
    log_density=mean_distance,
    stated=True,
)
