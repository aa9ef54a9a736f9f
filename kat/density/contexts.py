"""How far the contexts of one opening lie apart, and whether that is far: is the opening the right unit of density?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ContextSpread:
    """What was measured on some openings with several contexts.

    `within` is the median over the openings of the mean distance between two of an opening's contexts, `nearest` the
    median distance of an opening to its nearest other. Distances are Euclidean, between unit vectors.
    """

    openings: int
    contexts: int
    within: float
    nearest: float

    @property
    def apart(self) -> bool:
        """Whether contexts of one opening are further apart than different openings that are neighbours."""
        return self.within > self.nearest

    def as_dict(self) -> dict[str, Any]:
        """Return what a file holds."""
        return asdict(self) | {"apart": self.apart}


def context_spread(vectors: np.ndarray, group: np.ndarray, nearest: np.ndarray) -> ContextSpread:
    """Measure unit vectors [M, D] of contexts, `group` [M] naming the opening of each, against `nearest` [N].

    Every group has two members or more; `nearest` are the distances of the openings to their nearest distinct others.
    """
    _, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    means = [_mean_distance(vectors[index == one].astype(np.float64)) for one in range(len(sizes))]
    return ContextSpread(
        openings=len(sizes),
        contexts=len(vectors),
        within=float(np.median(means)),
        nearest=float(np.median(nearest)),
    )


def _mean_distance(vectors: np.ndarray) -> float:
    """The mean distance between two different rows of [m, D]."""
    rows, others = np.triu_indices(len(vectors), 1)
    return float(np.linalg.norm(vectors[rows] - vectors[others], axis=1).mean())
