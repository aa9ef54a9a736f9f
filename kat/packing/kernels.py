"""Compiled loops over bfloat16 numbers: what stands between the products of a layer, each in one pass over memory.

A bfloat16 is the upper half of a float32. Arrays of them are seen as uint16, for NumPy has no such type.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

FLAGS = {"cache": True, "nogil": True, "error_model": "numpy"}
LOOSE = {"reassoc", "contract", "nsz"}  # sums in any order; NaN and infinity keep their meaning

LOG2_E = np.float32(np.log2(np.e))
LOWEST = np.float32(-127)  # what `scaled` makes 0 of
UNSEEN = np.uint16(0xFF80)  # minus infinity
# 2^f = 1 + f·(…) on [-1/2, 1/2] to 1e-4, and (Φ(x) - 1/2) / x in (x/4)², so that x·Φ(x) is right to 1e-5 for |x| up
# to 4: fitted by weighted least squares at Chebyshev nodes. A bfloat16 is right to 4e-3.
EXP2 = tuple(np.float32(c) for c in (0.69328293, 0.24221096, 0.05500893))
PHI = tuple(
    np.float32(c)
    for c in (
        0.39888101,
        -1.06117797,
        2.51284416,
        -4.55825415,
        6.22199195,
        -6.14526427,
        4.09503873,
        -1.62856241,
        0.28949547,
    )
)


@intrinsic
def wide(_, half):
    """The float32 whose upper half is a uint16."""

    def emit(context, builder, signature, args):
        word = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.uint16), emit


@intrinsic
def rank(_, half):
    """A whole number that orders as a bfloat16 does, NaN last: maxima of integers are quick. Its own inverse."""

    def emit(context, builder, signature, args):
        sign = builder.ashr(args[0], ir.Constant(ir.IntType(16), 15))
        return builder.xor(args[0], builder.and_(sign, ir.Constant(ir.IntType(16), 0x7FFF)))

    return types.int16(types.uint16), emit


@intrinsic
def unrank(_, order):
    """The bfloat16 of a rank."""

    def emit(context, builder, signature, args):
        sign = builder.ashr(args[0], ir.Constant(ir.IntType(16), 15))
        return builder.xor(args[0], builder.and_(sign, ir.Constant(ir.IntType(16), 0x7FFF)))

    return types.uint16(types.int16), emit


@intrinsic
def narrow(_, value):
    """The upper half of a float32, rounded to the nearest (ties away from zero). Not for NaN."""

    def emit(context, builder, signature, args):
        word = builder.bitcast(args[0], ir.IntType(32))
        word = builder.add(word, ir.Constant(ir.IntType(32), 0x8000))
        return builder.trunc(builder.lshr(word, ir.Constant(ir.IntType(32), 16)), ir.IntType(16))

    return types.uint16(types.float32), emit


@intrinsic
def scaled(_, value, exponent):
    """value · 2^n of float32 numbers, for whole n that leave it a normal number; exactly 0 for 1 · 2^-127."""

    def emit(context, builder, signature, args):
        exponent = builder.shl(builder.fptosi(args[1], ir.IntType(32)), ir.Constant(ir.IntType(32), 23))
        word = builder.add(builder.bitcast(args[0], ir.IntType(32)), exponent)
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.float32, types.float32), emit


@numba.njit(fastmath=LOOSE, inline="always", **{k: v for k, v in FLAGS.items() if k != "cache"})
def exp(x, largest):
    """e^(x - largest) for x ≤ largest, to 1e-4, and 0 or a number below 2^-125 where that is below 2^-126."""
    y = max(x * LOG2_E - largest * LOG2_E, LOWEST)
    n = np.floor(y + np.float32(0.5))
    f = y - n
    return scaled(np.float32(1) + f * (EXP2[0] + f * (EXP2[1] + f * EXP2[2])), n)


@numba.njit(fastmath=LOOSE, **FLAGS)
def _exponentials(row):
    """One row. Quick where its length is a multiple of 16, for the rest is not done in vectors."""
    top = np.int16(-32768)
    for i in range(len(row)):
        top = max(top, rank(row[i]))
    largest, total = wide(unrank(top)), np.float32(0)
    for i in range(len(row)):
        half = narrow(exp(wide(row[i]), largest))
        row[i] = half
        total += wide(half)
    return total


@numba.njit(fastmath=LOOSE, **FLAGS)
def exponentials(scores, lengths, causal, window, totals):
    """Scores to e^(score - largest of the row), in place, and their sums.

    `scores` [B, H', G·K, K] uint16 are those of B texts of `lengths` tokens, each filled up to K: query i of a
    text, in each of the G heads that share keys, sees those of its keys that are not after it if `causal`, and less
    than `window` away. The rest become 0. `totals` [B, H', G·K] float32 gets the sum of what was written, so that
    rounding cancels; 1 for the queries behind a text's end, whose scores are left alone.
    """
    keys = scores.shape[3]
    for b in range(scores.shape[0]):
        length = lengths[b]
        for h in range(scores.shape[1]):
            for q in range(scores.shape[2]):
                i = q % keys
                if i >= length:
                    totals[b, h, q] = 1
                    continue
                row = scores[b, h, q]
                a = max(i - window + 1, 0)
                z = i + 1 if causal else min(i + window, length)
                for key in range(a):
                    row[key] = UNSEEN
                for key in range(z, keys):
                    row[key] = UNSEEN
                totals[b, h, q] = _exponentials(row)


@numba.njit(fastmath=LOOSE, **FLAGS)
def gelu(x, out):
    """x·Φ(x) of uint16 [N] into `out`: the exact GELU, not its tanh form, to within bfloat16's rounding or 1e-5."""
    for i in range(len(x)):
        v = wide(x[i])
        t = v * v * np.float32(1 / 16)
        p = PHI[8]
        p = PHI[7] + t * p
        p = PHI[6] + t * p
        p = PHI[5] + t * p
        p = PHI[4] + t * p
        p = PHI[3] + t * p
        p = PHI[2] + t * p
        p = PHI[1] + t * p
        p = PHI[0] + t * p
        inside = v * (np.float32(0.5) + v * p)
        out[i] = narrow(inside if t < np.float32(1) else max(v, np.float32(0)))


@numba.njit(fastmath=LOOSE, **FLAGS)
def _normalised(row, weight, bias, eps, centred, low):
    """One row, in place; its bfloat16 numbers into `low`."""
    size = np.float32(len(row))
    mean, square = np.float32(0), np.float32(0)
    if centred:
        for d in range(len(row)):
            mean += row[d]
        mean /= size
    for d in range(len(row)):
        off = row[d] - mean
        square += off * off
    scale = np.float32(1) / np.sqrt(square / size + eps)
    for d in range(len(row)):
        value = (row[d] - mean) * scale * weight[d] + bias[d]
        row[d] = value
        low[d] = narrow(value)


@numba.njit(fastmath=LOOSE, **FLAGS)
def norm(x, weight, bias, eps, centred, out, low):
    """Layer norm (`centred`) or root mean square norm of x [N, D] into `out` [N, D] float32 and `low` [N, D] uint16."""
    for i in range(len(x)):
        row, found = x[i], out[i]
        for d in range(len(row)):
            found[d] = row[d]
        _normalised(found, weight, bias, eps, centred, low[i])


@numba.njit(fastmath=LOOSE, **FLAGS)
def norm_of_sum(x, half, weight, bias, eps, centred, out, low):
    """The norm of x [N, D] float32 + half [N, D] uint16, as `norm` gives it."""
    for i in range(len(x)):
        row, other, found = x[i], half[i], out[i]
        for d in range(len(row)):
            found[d] = row[d] + wide(other[d])
        _normalised(found, weight, bias, eps, centred, low[i])


@numba.njit(**FLAGS)
def gather(row, head, starts, lengths, out):
    """Texts from a packed row [T, ·, D] to [B, H, L, D]: H heads from `head` on, the first tokens at `starts` [B].
    Zeros fill it up."""
    for b in range(out.shape[0]):
        start, length = starts[b], lengths[b]  # read once: the compiler cannot know that `out` is not where they are
        for h in range(out.shape[1]):
            for i in range(length):
                token, column = start + i, head + h
                for d in range(out.shape[3]):
                    out[b, h, i, d] = row[token, column, d]
            for i in range(length, out.shape[2]):
                for d in range(out.shape[3]):
                    out[b, h, i, d] = 0


@numba.njit(fastmath=LOOSE, **FLAGS)
def scatter(found, totals, head, starts, lengths, row):
    """The way back, each text's vectors [B, H, L, D] divided by totals [B, H, L]; what filled them up stays behind."""
    for b in range(found.shape[0]):
        start, length = starts[b], lengths[b]
        for i in range(length):
            token = start + i
            for h in range(found.shape[1]):
                scale, column = np.float32(1) / totals[b, h, i], head + h
                for d in range(found.shape[3]):
                    row[token, column, d] = narrow(wide(found[b, h, i, d]) * scale)
