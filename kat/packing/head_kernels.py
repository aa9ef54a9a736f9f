"""Compiled loops from logits in bfloat16 to log-probabilities of given tokens, and back.

`kat.packing.kernels` says what keeps them fast. Tokens are shared out among torch's number of threads.
"""

import numba
import numpy as np

from kat.compiled import kernel, kernel_flags
from kat.packing.kernels import LOOSE, exp, narrow, rank, unrank, wide

FLAGS = kernel_flags(__file__) | {"parallel": True, "fastmath": LOOSE}


@kernel(**FLAGS)
def log_probs(
    logits: np.ndarray,
    inverse: np.float32,
    ids: np.ndarray,
    log_probs: np.ndarray,
    entropy: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Write the log-probability of a token of each row of logits [C, V] uint16 times `inverse`, the row's entropy, and
    the logarithm of the sum of its exponentials, each [C] float32."""
    for r in numba.prange(len(logits)):
        row = logits[r]
        top = np.int16(-32768)
        for v in range(len(row)):
            top = max(top, rank(row[v]))
        largest = wide(unrank(top)) * inverse
        total, weighted = np.float32(0), np.float32(0)
        for v in range(len(row)):
            x = wide(row[v]) * inverse
            weight = exp(x, largest)
            total += weight
            weighted += weight * (x - largest)
        logarithm = np.log(total)
        totals[r] = largest + logarithm
        log_probs[r] = wide(row[ids[r]]) * inverse - largest - logarithm
        entropy[r] = logarithm - weighted / total


@kernel(**FLAGS)
def log_prob_gradients(
    logits: np.ndarray, inverse: np.float32, ids: np.ndarray, totals: np.ndarray, scale: np.ndarray
) -> None:
    """Turn logits [C, V] uint16, in place, into `scale` [C] · (1 at the row's token − probability)."""
    for r in numba.prange(len(logits)):
        row, total, factor = logits[r], totals[r], scale[r]
        own = np.float32(1) - np.exp(wide(row[ids[r]]) * inverse - total)
        for v in range(len(row)):
            row[v] = narrow(-factor * exp(wide(row[v]) * inverse, total))
        row[ids[r]] = narrow(factor * own)
