"""Density from the distance to the k-th nearest: the textbook's k-NN density, in the intrinsic dimension."""

from __future__ import annotations

import numpy as np

from kat.density.dimension import TINY, Duplicates, two_nn
from kat.density.estimators import Estimator


def kth_distance(distances: np.ndarray, dimension: float, duplicates: Duplicates = 1) -> np.ndarray:
    """Return −d · log of the k-th distance, + log(m), [N]: the k-NN density k / (N · V_d · r_k^d) up to a constant.

    Loftsgaarden & Quesenberry, "A nonparametric estimate of a multivariate density function" (1965), with d the
    intrinsic dimension in place of the number of columns.
    """
    return -dimension * np.log(np.maximum(distances[:, -1].astype(np.float64), TINY)) + np.log(duplicates)


PLUGIN = Estimator(
    name="kth_distance",
    help="The k-NN density of the k-th distance, in the intrinsic dimension.",
    log_density=kth_distance,
    dimension=two_nn,
)
