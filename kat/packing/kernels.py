"""Compiled loops over bfloat16 numbers: what stands between the products of a layer, each in one pass over memory.

A bfloat16 is the upper half of a float32. Arrays of them are seen as uint16, for NumPy has no such type.

A loop that the compiler does not vectorise is ten times slower and looks the same. What keeps these loops in vectors:

- Sums in any order (`LOOSE`): a sum from left to right cannot be cut into lanes.
- Maxima of integers (`rank`), not of floats, whose NaN makes the order matter.
- Loops over all of a row that is a view of its own. Numba's index may be negative, so a loop from a to z over part of
  an array is scalar; keys that are not seen get minus infinity instead, and every row has the same fixed length.
- Bounds read into a variable before the loop (`gather`): what is read from one array while another is written is read
  again at every turn, for the two might overlap. Reading it once made attention a third faster.

`_exponentials` and `_normalised` take one row for the third of these reasons. They are inlined (`INLINED`): what is a
function of its own is compiled twice, alone and inside its caller, sums may be in another order there, and which of the
two a process takes would depend on whether it compiled or read the cache. The same text must give the same bytes.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from kat.compiled import kernel, kernel_flags

FLAGS = kernel_flags(__file__)
# Sums in any order; NaN and infinity keep their meaning, for a model that overflows must not look as if it did not.
LOOSE = {"reassoc", "contract", "nsz"}
INLINED: dict[str, Any] = {"fastmath": LOOSE, "inline": "always", "nogil": True, "error_model": "numpy"}

LOG2_E = np.float32(np.log2(np.e))
LOWEST = np.float32(-127)  # what `scaled` makes 0 of
UNSEEN = np.uint16(0xFF80)  # minus infinity
# 2^f = 1 + f·(…) on [-1/2, 1/2] to 1e-4, and (Φ(x) - 1/2) / x in (x/4)², so that x·Φ(x) is right to 1e-5 for |x| up
# to 4: fitted by weighted least squares at Chebyshev nodes. A bfloat16 is right to 4e-3, so that degree 3 is enough:
# degree 4 (3e-6) takes a tenth longer and changes no neighbour.
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


# Intrinsics are functions of a typing context and argument types; compiled code calls them without the context.
_Intrinsic = tuple[Any, Callable[..., ir.Value]]


@intrinsic
def wide(_: Any, half: Any) -> _Intrinsic:
    """Return the float32 whose upper half is a uint16."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple[ir.Value]) -> ir.Value:
        word = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.uint16), emit


def _emit_rank(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple[ir.Value]) -> ir.Value:
    """Flip all bits but the sign of a negative number: a larger magnitude is then a smaller integer."""
    sign = builder.ashr(args[0], ir.Constant(ir.IntType(16), 15))
    return builder.xor(args[0], builder.and_(sign, ir.Constant(ir.IntType(16), 0x7FFF)))


@intrinsic
def rank(_: Any, half: Any) -> _Intrinsic:
    """Return an int16 that orders as a bfloat16 does, NaN last: maxima of integers are done in vectors."""
    return types.int16(types.uint16), _emit_rank


@intrinsic
def unrank(_: Any, order: Any) -> _Intrinsic:
    """Return the bfloat16 of a rank; the flip is its own inverse."""
    return types.uint16(types.int16), _emit_rank


@intrinsic
def narrow(_: Any, value: Any) -> _Intrinsic:
    """Return the upper half of a float32, rounded to the nearest (ties away from zero).

    A NaN stays one if its lower half is zero, as that of a NaN of arithmetic or of bfloat16 is; others may not.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple[ir.Value]) -> ir.Value:
        word = builder.bitcast(args[0], ir.IntType(32))
        word = builder.add(word, ir.Constant(ir.IntType(32), 0x8000))
        return builder.trunc(builder.lshr(word, ir.Constant(ir.IntType(32), 16)), ir.IntType(16))

    return types.uint16(types.float32), emit


@intrinsic
def scaled(_: Any, value: Any, exponent: Any) -> _Intrinsic:
    """Return value · 2^n of float32 numbers, for whole n that leave it a normal number; exactly 0 for 1 · 2^-127.

    n is added to the bits of the exponent, where a multiplication would first need 2^n as a number.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple[ir.Value, ir.Value]) -> ir.Value:
        exponent = builder.shl(builder.fptosi(args[1], ir.IntType(32)), ir.Constant(ir.IntType(32), 23))
        word = builder.add(builder.bitcast(args[0], ir.IntType(32)), exponent)
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.float32, types.float32), emit


@numba.njit(**INLINED)
def exp(x: np.float32, largest: np.float32) -> np.float32:
    """Return e^(x - largest) for x ≤ largest, to 1e-4; 0 or a number below 2^-125 where that is below 2^-126.

    As 2^n · 2^f, n whole and |f| ≤ 1/2.
    """
    y = max(x * LOG2_E - largest * LOG2_E, LOWEST)
    n = np.floor(y + np.float32(0.5))
    f = y - n
    return scaled(np.float32(1) + f * (EXP2[0] + f * (EXP2[1] + f * EXP2[2])), n)


@numba.njit(**INLINED)
def _exponentials(row: np.ndarray) -> np.float32:
    """Do `exponentials` for one row [K] and return its sum. The rest of a length over 16 is not done in vectors."""
    top = np.int16(-32768)
    for i in range(len(row)):
        top = max(top, rank(row[i]))
    largest, total = wide(unrank(top)), np.float32(0)
    for i in range(len(row)):
        half = narrow(exp(wide(row[i]), largest))
        row[i] = half
        total += wide(half)
    return total


@kernel(fastmath=LOOSE, **FLAGS)
def exponentials(scores: np.ndarray, lengths: np.ndarray, causal: bool, window: int, totals: np.ndarray) -> None:
    """Turn scores into e^(score - largest of the row), in place, and write their sums: maximum, mask, sum in one pass.

    `scores` [B, H', G·K, K] uint16 are those of B texts of `lengths` tokens, each filled up to K: query i of a
    text, in each of the G heads that share keys, sees those of its keys that are not after it if `causal`, and less
    than `window` away. The rest become 0. `totals` [B, H', G·K] float32 gets the sum of what was written, so that
    rounding cancels; 1 for the queries behind a text's end, whose scores stay as they are.
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


@kernel(fastmath=LOOSE, **FLAGS)
def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """Write x·Φ(x) of uint16 [N] into `out`: the exact GELU, not its tanh form, within bfloat16's rounding or 1e-5.

    Beyond |x| = 4 it is x or 0, and leaves out a tail of 1.3e-4. The polynomial is written out, so that no loop
    stands inside the one that is to be done in vectors. Fused into oneDNN's product, a GELU gains nothing: the product
    slows by what it cost.
    """
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


@numba.njit(**INLINED)
def _normalised(
    row: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: np.float32, centred: bool, bf16: np.ndarray
) -> None:
    """Normalise one row, in place; write its bfloat16 numbers into `bf16`.

    Three loops over a row that stays in the first cache: memory is read and written once.
    """
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
        bf16[d] = narrow(value)


@kernel(fastmath=LOOSE, **FLAGS)
def norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: np.float32,
    centred: bool,
    out: np.ndarray,
    bf16: np.ndarray,
) -> None:
    """Write the layer norm (`centred`) or root mean square norm of x [N, D] into `out` [N, D] float32 and, as
    bfloat16, into `bf16` [N, D] uint16; weight and bias are [D] float32."""
    for i in range(len(x)):
        row, normed = x[i], out[i]
        for d in range(len(row)):
            normed[d] = row[d]
        _normalised(normed, weight=weight, bias=bias, eps=eps, centred=centred, bf16=bf16[i])


@kernel(fastmath=LOOSE, **FLAGS)
def norm_of_sum(
    x: np.ndarray,
    half: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: np.float32,
    centred: bool,
    out: np.ndarray,
    bf16: np.ndarray,
) -> None:
    """Write the norm of x [N, D] float32 + half [N, D] uint16, as `norm` does."""
    for i in range(len(x)):
        row, other, normed = x[i], half[i], out[i]
        for d in range(len(row)):
            normed[d] = row[d] + wide(other[d])
        _normalised(normed, weight=weight, bias=bias, eps=eps, centred=centred, bf16=bf16[i])


@kernel(**FLAGS)
def gather(row: np.ndarray, head: int, starts: np.ndarray, lengths: np.ndarray, texts: np.ndarray) -> None:
    """Copy texts of a packed row [T, ·, D] to [B, H, L, D]: H heads from `head` on, the first tokens at `starts` [B].

    Zeros fill up what is longer than `lengths` [B].
    """
    for b in range(texts.shape[0]):
        start, length = starts[b], lengths[b]  # read once: the compiler cannot know that `texts` does not overlap them
        for h in range(texts.shape[1]):
            for i in range(length):
                token, column = start + i, head + h
                for d in range(texts.shape[3]):
                    texts[b, h, i, d] = row[token, column, d]
            for i in range(length, texts.shape[2]):
                for d in range(texts.shape[3]):
                    texts[b, h, i, d] = 0


@kernel(fastmath=LOOSE, **FLAGS)
def scatter(
    texts: np.ndarray, totals: np.ndarray, head: int, starts: np.ndarray, lengths: np.ndarray, row: np.ndarray
) -> None:
    """Copy texts [B, H, L, D], divided by totals [B, H, L], back to their row; what filled them up stays behind."""
    for b in range(texts.shape[0]):
        start, length = starts[b], lengths[b]
        for i in range(length):
            token = start + i
            for h in range(texts.shape[1]):
                scale, column = np.float32(1) / totals[b, h, i], head + h
                for d in range(texts.shape[3]):
                    row[token, column, d] = narrow(wide(texts[b, h, i, d]) * scale)
