"""Compiled loops of generation in bfloat16: attention of one new token a completion, and the draw of the next one.

`kat.packing.kernels` says what keeps such loops fast. Completions are shared out among torch's number of threads.
"""

import numba
import numpy as np

from kat.compiled import kernel, kernel_flags
from kat.packing.kernels import LOOSE, exp, narrow, rank, unrank, wide

FLAGS = kernel_flags(__file__) | {"parallel": True, "fastmath": LOOSE}
BLOCK = 512
"""Tokens of the vocabulary whose probabilities are summed together: the draw finds its block first."""


@kernel(**FLAGS)
def attend_new(
    trunk_keys: np.ndarray,
    trunk_values: np.ndarray,
    own_keys: np.ndarray,
    own_values: np.ndarray,
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    places: np.ndarray,
    lengths: np.ndarray,
    rows: np.ndarray,
    said: np.ndarray,
    window: int,
    scale: np.float32,
    out: np.ndarray,
) -> None:
    """Keep the new tokens' keys [R, H', D] and values [R, H', D']; write the attention of queries [R, H, D] into `out`
    [R, H, D']. The rest is of `kat.packing.decode`: stores of a layer, and where each completion's part of them lies.
    """
    shared, size = keys.shape[1], values.shape[2]
    groups = queries.shape[1] // shared
    for place in numba.prange(queries.shape[0] * shared):
        r, h = place // shared, place % shared
        trunk, row, count, length = places[r], rows[r], said[r], lengths[r]
        new_key, kept_key = keys[r, h], own_keys[row, h, count]
        for d in range(len(new_key)):
            kept_key[d] = new_key[d]
        new_value, kept_value = values[r, h], own_values[row, h, count]
        for d in range(len(new_value)):
            kept_value[d] = new_value[d]
        total = length + count + 1
        first = max(total - window, 0)
        scores = np.empty((groups, total), np.float32)
        q = np.empty((groups, len(new_key)), np.float32)
        for g in range(groups):
            head, query = q[g], queries[r, h * groups + g]
            for d in range(len(query)):
                head[d] = wide(query[d]) * scale
        for i in range(first, total):
            key = trunk_keys[trunk, h, i] if i < length else own_keys[row, h, i - length]
            for g in range(groups):
                head, score = q[g], np.float32(0)
                for d in range(len(key)):
                    score += head[d] * wide(key[d])
                scores[g, i] = score
        sums = np.zeros((groups, size), np.float32)
        totals = np.zeros(groups, np.float32)
        for g in range(groups):
            of_head = scores[g, first:]
            largest = of_head[0]
            for i in range(len(of_head)):
                largest = max(largest, of_head[i])
            weight = np.float32(0)
            for i in range(len(of_head)):
                of_head[i] = exp(of_head[i], largest)
                weight += of_head[i]
            totals[g] = weight
        for i in range(first, total):
            value = trunk_values[trunk, h, i] if i < length else own_values[row, h, i - length]
            for g in range(groups):
                into, weight = sums[g], scores[g, i]
                for d in range(len(into)):
                    into[d] += weight * wide(value[d])
        for g in range(groups):
            result, into, weight = out[r, h * groups + g], sums[g], np.float32(1) / totals[g]
            for d in range(len(into)):
                result[d] = narrow(into[d] * weight)


@kernel(**FLAGS)
def draw(
    logits: np.ndarray, inverse: np.float32, uniforms: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray
) -> None:
    """Draw a token of each row of logits [R, V] uint16 from softmax(logits · `inverse`), at the place of `uniforms` [R]
    in its cumulated probabilities; write it into `tokens` [R] and its log-probability into `log_probs` [R].

    A row whose logits are not all numbers gets token −1.
    """
    for r in numba.prange(len(logits)):
        row = logits[r]
        blocks = (len(row) + BLOCK - 1) // BLOCK
        sums = np.empty(blocks, np.float64)
        top = np.int16(-32768)
        for v in range(len(row)):
            top = max(top, rank(row[v]))
        largest = wide(unrank(top)) * inverse
        total = np.float64(0)
        for b in range(blocks):
            part = row[b * BLOCK : min((b + 1) * BLOCK, len(row))]
            weight = np.float32(0)
            for v in range(len(part)):
                weight += exp(wide(part[v]) * inverse, largest)
            sums[b] = weight
            total += weight
        if not np.isfinite(total) or not np.isfinite(largest):
            tokens[r], log_probs[r] = -1, np.nan
            continue
        left = uniforms[r] * total
        b = 0
        while b < blocks - 1 and left >= sums[b]:
            left -= sums[b]
            b += 1
        part = row[b * BLOCK : min((b + 1) * BLOCK, len(row))]
        # Summed again in the order of the walk: rounding must not carry it past the block's last likely token.
        again = 0.0
        for v in range(len(part)):
            again += exp(wide(part[v]) * inverse, largest)
        left *= again / sums[b]
        v = 0
        while v < len(part) - 1:
            left -= exp(wide(part[v]) * inverse, largest)
            if left < 0:
                break
            v += 1
        tokens[r] = b * BLOCK + v
        log_probs[r] = wide(part[v]) * inverse - largest - np.log(total)


@kernel(**FLAGS)
def norm_rows(residual: np.ndarray, scale: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """Write the root mean square norm of residuals [R, D] float32 times `scale` [D] into `out` [R, D] uint16."""
    for r in numba.prange(len(residual)):
        row, result, square = residual[r], out[r], np.float32(0)
        for d in range(len(row)):
            square += row[d] * row[d]
        factor = np.float32(1) / np.sqrt(square / np.float32(len(row)) + eps)
        for d in range(len(row)):
            result[d] = narrow(row[d] * factor * scale[d])


@kernel(**FLAGS)
def add_and_norm(residual: np.ndarray, change: np.ndarray, scale: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """Add a change [R, D] uint16 to residuals [R, D] float32, in place, and write their norm as `norm_rows` does."""
    for r in numba.prange(len(residual)):
        row, added, result, square = residual[r], change[r], out[r], np.float32(0)
        for d in range(len(row)):
            row[d] += wide(added[d])
        for d in range(len(row)):
            square += row[d] * row[d]
        factor = np.float32(1) / np.sqrt(square / np.float32(len(row)) + eps)
        for d in range(len(row)):
            result[d] = narrow(row[d] * factor * scale[d])
