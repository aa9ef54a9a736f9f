"""The compiled comparison of sketches: millions of candidate pairs, each a merge of two short sorted rows."""

from __future__ import annotations

import numpy as np

from kat.compiled import kernel, kernel_flags


@kernel(**kernel_flags(__file__))
def shared_parts(
    hashes: np.ndarray, reach: np.ndarray, size: np.ndarray, a: np.ndarray, b: np.ndarray, least: float
) -> np.ndarray:
    """Return the share [E] of hashes that the rows a[e] and b[e] of `hashes` [X, S] have in common; 0 if under `least`.

    Rows ascend and hold `size` [X] hashes. Of both only those up to the smaller `reach` [X] count: beyond it one of
    them was cut. A share of `least` leaves room for (1 - least) · (all hashes of both) that stand in one alone: most
    candidates have more soon, and are given up there.
    """
    width, parts = hashes.shape[1], np.zeros(len(a))
    for e in range(len(a)):
        one, other = hashes[a[e]], hashes[b[e]]
        limit = min(reach[a[e]], reach[b[e]])
        i, j, common, union = 0, 0, 0, 0
        most = (1 - least) * (size[a[e]] + size[b[e]])
        while union - common <= most:
            x_left = i < width and one[i] <= limit
            y_left = j < width and other[j] <= limit
            if not x_left and not y_left:
                parts[e] = common / max(union, 1)
                break
            union += 1
            if x_left and y_left and one[i] == other[j]:
                common += 1
                i += 1
                j += 1
            elif x_left and (not y_left or one[i] < other[j]):
                i += 1
            else:
                j += 1
    return parts
