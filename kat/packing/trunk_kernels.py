"""Compiled loops of attention over trunks and branches in bfloat16. `kat.packing.kernels` says what keeps them fast.

Rows of scores are shared out among torch's number of threads (`prange`): a training step has one process.
"""

import numba
import numpy as np

from kat.compiled import kernel, kernel_flags
from kat.packing.kernels import LOOSE, UNSEEN, exp, narrow, rank, unrank, wide

FLAGS = kernel_flags(__file__) | {"parallel": True, "fastmath": LOOSE}


@kernel(**FLAGS)
def gather(row: np.ndarray, head: int, starts: np.ndarray, lengths: np.ndarray, texts: np.ndarray) -> None:
    """Copy stretches of a row [T, ·, D] to [B, H, L, D], the first tokens at `starts` [B]; zeros fill them up."""
    heads, filled = texts.shape[1], texts.shape[2]
    for place in numba.prange(texts.shape[0] * heads):
        b, h = place // heads, place % heads
        start, length, text = starts[b], lengths[b], texts[b, h]
        for i in range(length):
            source, target = row[start + i, head + h], text[i]
            for d in range(len(target)):
                target[d] = source[d]
        for i in range(length, filled):
            target = text[i]
            for d in range(len(target)):
                target[d] = 0


@kernel(**FLAGS)
def block_softmax(
    scores: np.ndarray,
    query_lengths: np.ndarray,
    filled: int,
    key_lengths: np.ndarray,
    causal: bool,
    totals: np.ndarray,
    logarithms: np.ndarray,
) -> None:
    """Turn scores [B, H', G·L, K] into e^(score − largest of the row), in place; see `PlainSteps.softmax`."""
    heads, rows = scores.shape[1], scores.shape[2]
    for place in numba.prange(scores.shape[0] * heads * rows):
        b, h, q = place // (heads * rows), place // rows % heads, place % rows
        i, row = q % filled, scores[b, h, q]
        if i >= query_lengths[b]:
            totals[b, h, q], logarithms[b, h, q] = 1, 0
            continue
        for key in range(i + 1 if causal else key_lengths[b], len(row)):
            row[key] = UNSEEN
        top = np.int16(-32768)
        for key in range(len(row)):
            top = max(top, rank(row[key]))
        largest, total = wide(unrank(top)), np.float32(0)
        for key in range(len(row)):
            half = narrow(exp(wide(row[key]), largest))
            row[key] = half
            total += wide(half)
        totals[b, h, q], logarithms[b, h, q] = total, np.log(total) + largest


@kernel(**FLAGS)
def join_block(
    sums: np.ndarray,
    totals: np.ndarray,
    logarithms: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    first: bool,
    out: np.ndarray,
    lse: np.ndarray,
) -> None:
    """Join stretches [B, H, L, D] to `out` [T, H, D] by the logarithms of their sums; see `PlainSteps.join`."""
    heads = sums.shape[1]
    for place in numba.prange(sums.shape[0] * heads):
        b, h = place // heads, place % heads
        start = starts[b]
        for i in range(lengths[b]):
            source, target = sums[b, h, i], out[start + i, h]
            if first:
                share = np.float32(1) / totals[b, h, i]
                for d in range(len(target)):
                    target[d] = wide(source[d]) * share
                lse[start + i, h] = logarithms[b, h, i]
                continue
            known, new = lse[start + i, h], logarithms[b, h, i]
            largest = max(known, new)
            both = largest + np.log(np.exp(known - largest) + np.exp(new - largest))
            old_share, share = np.exp(known - both), np.exp(new - both) / totals[b, h, i]
            for d in range(len(target)):
                target[d] = target[d] * old_share + wide(source[d]) * share
            lse[start + i, h] = both


@kernel(**FLAGS)
def block_gradients(
    scores: np.ndarray,
    grads: np.ndarray,
    starts: np.ndarray,
    query_lengths: np.ndarray,
    filled: int,
    key_lengths: np.ndarray,
    causal: bool,
    lse: np.ndarray,
    delta: np.ndarray,
    scale: np.float32,
) -> None:
    """Turn scores into probabilities and their gradients into those of the scores, in place: `PlainSteps.gradients`."""
    heads, rows = scores.shape[1], scores.shape[2]
    groups = rows // filled
    for place in numba.prange(scores.shape[0] * heads * rows):
        b, h, q = place // (heads * rows), place // rows % heads, place % rows
        i, row, grad = q % filled, scores[b, h, q], grads[b, h, q]
        seen = 0 if i >= query_lengths[b] else i + 1 if causal else key_lengths[b]
        token, head = starts[b] + (i if seen else 0), h * groups + q // filled
        largest, product = lse[token, head], delta[token, head]
        for key in range(seen, len(row)):
            row[key] = UNSEEN
        for key in range(len(row)):
            p = exp(wide(row[key]), largest)
            row[key] = narrow(p)
            grad[key] = narrow(p * (wide(grad[key]) - product) * scale)


@kernel(**FLAGS)
def add_stretches(stretches: np.ndarray, starts: np.ndarray, lengths: np.ndarray, row: np.ndarray) -> None:
    """Add stretches [B, H, L, D] to their places in a row [T, H, D] float32; no two of them share a token."""
    heads = stretches.shape[1]
    for place in numba.prange(stretches.shape[0] * heads):
        b, h = place // heads, place % heads
        start = starts[b]
        for i in range(lengths[b]):
            source, target = stretches[b, h, i], row[start + i, h]
            for d in range(len(target)):
                target[d] += wide(source[d])


@kernel(**FLAGS)
def row_products(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    """Write the sums over D of products of [T, H, D] uint16 into `out` [T, H] float32."""
    heads = first.shape[1]
    for t in numba.prange(len(first)):
        for h in range(heads):
            a, b, total = first[t, h], second[t, h], np.float32(0)
            for d in range(len(a)):
                total += wide(a[d]) * wide(b[d])
            out[t, h] = total
