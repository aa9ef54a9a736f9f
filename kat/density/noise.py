"""How much of a log density is the sample's and not the topic's: two disjoint halves of the data are compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kat.density.dimension import Duplicates
from kat.records import Halves


def split_half(
    halves: Halves | None,
    k: int,
    log_density: Callable[[np.ndarray], np.ndarray],
    single: np.ndarray,
    duplicates: Duplicates = 1,
) -> tuple[float | None, float | None]:
    """Return the reliability r of a log density and its noise σ² = (1 − r) · var; None where not measured.

    `log_density` takes distances [Q, h] to log densities [Q], as it took those of all rows to `single` [N], which
    leaves out what duplicates add: they are no noise, so the variance is that of distinct vectors.

    If an estimate is signal plus independent noise, the correlation r½ of two halves is the signal's share of a
    half's variance. A half has half the density, so k / 2 neighbours reach as far in it as k do in all rows; the
    reliability of those follows by r = 2 r½ / (1 + r½) (Spearman 1910, Brown 1910). A negative r½ counts as 0.
    """
    if halves is None or np.ptp(single) == 0:
        return None, None
    used = max(1, min(k // 2, halves.first.shape[1]))
    first, second = (log_density(side[:, :used]) for side in (halves.first, halves.second))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None, None
    half = max(0.0, float(np.corrcoef(first, second)[0, 1]))
    r = 2 * half / (1 + half)
    weights = np.broadcast_to(1 / np.float64(duplicates), single.shape)
    variance = np.average((single - np.average(single, weights=weights)) ** 2, weights=weights)
    return r, (1 - r) * float(variance)
