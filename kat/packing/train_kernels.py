"""Compiled loops of norms and gated activations in bfloat16, with their gradients, for `kat.packing.fused`.

`kat.packing.kernels` says what keeps them fast. Rows are shared out among torch's threads (`prange`).
"""

import numba
import numpy as np

from kat.compiled import kernel, kernel_flags
from kat.packing.kernels import INLINED, LOOSE, exp, narrow, wide

FLAGS = kernel_flags(__file__) | {"parallel": True, "fastmath": LOOSE}


@kernel(**FLAGS)
def rms_norm(
    x: np.ndarray,
    change: np.ndarray,
    weight: np.ndarray,
    eps: np.float32,
    total: np.ndarray,
    out: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """Write x / √(mean x² + eps) · weight of rows [N, D] float32 into `out` [N, D] uint16; 1/√… into [N] float32.

    Where `change` [N, D] uint16 has rows, of x + change, which goes into `total` [N, D] float32.
    """
    adds = len(change) > 0
    for n in numba.prange(len(x)):
        row, normed, square = x[n], out[n], np.float32(0)
        if adds:
            first, second = x[n], change[n]
            row = total[n]
            for d in range(len(row)):
                row[d] = first[d] + wide(second[d])
        for d in range(len(row)):
            square += row[d] * row[d]
        scale = np.float32(1) / np.sqrt(square / np.float32(len(row)) + eps)
        inverse[n] = scale
        for d in range(len(row)):
            normed[d] = narrow(row[d] * scale * weight[d])


@kernel(**FLAGS)
def rms_norm_gradients(
    x: np.ndarray,
    weight: np.ndarray,
    inverse: np.ndarray,
    grad: np.ndarray,
    onto: np.ndarray,
    of_x: np.ndarray,
    of_change: np.ndarray,
    of_weight: np.ndarray,
) -> None:
    """Write the gradients of x [N, D] float32, and of the weight in parts [P, D] float32, rows shared out among parts.

    With s = 1/√… and g the gradient of the output: s · (g·w − x · s² · mean(g·w·x)), and Σ g · x · s. Where `onto`
    [N, D] float32 has rows they are added to x's; where `of_change` [N, D] uint16 has, x's go there too.
    """
    parts, adds, changes = len(of_weight), len(onto) > 0, len(of_change) > 0
    for part in numba.prange(parts):
        total = of_weight[part]
        for d in range(len(total)):
            total[d] = 0
        for n in range(part * len(x) // parts, (part + 1) * len(x) // parts):
            row, g, target, s = x[n], grad[n], of_x[n], inverse[n]
            dot = np.float32(0)
            for d in range(len(row)):
                dot += wide(g[d]) * weight[d] * row[d]
            pull = dot / np.float32(len(row)) * s * s
            for d in range(len(row)):
                target[d] = s * (wide(g[d]) * weight[d] - row[d] * pull)
            for d in range(len(row)):
                total[d] += wide(g[d]) * row[d] * s
            if adds:
                other = onto[n]
                for d in range(len(target)):
                    target[d] += other[d]
            if changes:
                half = of_change[n]
                for d in range(len(target)):
                    half[d] = narrow(target[d])


@kernel(**FLAGS)
def add_rows(x: np.ndarray, change: np.ndarray, out: np.ndarray) -> None:
    """Write x + change of rows [N, D], float32 and uint16, into `out` [N, D] float32."""
    for n in numba.prange(len(x)):
        first, second, target = x[n], change[n], out[n]
        for d in range(len(target)):
            target[d] = first[d] + wide(second[d])


@numba.njit(**INLINED)
def _sigmoid(x: np.float32) -> np.float32:
    """Return 1 / (1 + e^−x), to 1e-4: the exponential is of a number that is not above 0."""
    e = exp(-abs(x), np.float32(0))
    return (np.float32(1) if x >= 0 else e) / (np.float32(1) + e)


@kernel(**FLAGS)
def swiglu(both: np.ndarray, out: np.ndarray) -> None:
    """Write silu(gate) · up of rows [N, 2 I] uint16, gate before up, into `out` [N, I] uint16."""
    for n in numba.prange(len(both)):
        size = out.shape[1]
        g, u, target = both[n, :size], both[n, size:], out[n]
        for d in range(len(target)):
            v = wide(g[d])
            target[d] = narrow(v * _sigmoid(v) * wide(u[d]))


@kernel(**FLAGS)
def swiglu_gradients(both: np.ndarray, grad: np.ndarray, of_both: np.ndarray) -> None:
    """Write the gradients of gate and up, uint16 [N, 2 I]: g·u·σ(1 + x(1 − σ)) and g·x·σ for x the gate."""
    for n in numba.prange(len(both)):
        size = grad.shape[1]
        x, u, g, of_x, of_u = both[n, :size], both[n, size:], grad[n], of_both[n, :size], of_both[n, size:]
        for d in range(len(g)):
            v, other, into = wide(x[d]), wide(u[d]), wide(g[d])
            s = _sigmoid(v)
            of_x[d] = narrow(into * other * s * (np.float32(1) + v * (np.float32(1) - s)))
            of_u[d] = narrow(into * v * s)


@kernel(**FLAGS)
def rotate(
    qkv: np.ndarray, cos: np.ndarray, sin: np.ndarray, queries: np.ndarray, keys: np.ndarray, values: np.ndarray
) -> None:
    """Write rows [T, (H + 2 H') D] uint16 as queries [T, H, D], keys and values [T, H', D], the first two rotated by
    `cos` and `sin` [T, D] float32: x · cos + (−second half, first half) · sin."""
    heads, shared, size = queries.shape[1], keys.shape[1], queries.shape[2]
    half = size // 2
    for t in numba.prange(len(qkv)):
        a, b, c, d = cos[t, :half], cos[t, half:], sin[t, :half], sin[t, half:]
        for h in range(heads + 2 * shared):
            head = qkv[t, h * size : (h + 1) * size]
            if h >= heads + shared:
                value = values[t, h - heads - shared]
                for i in range(len(value)):
                    value[i] = head[i]
                continue
            target = queries[t, h] if h < heads else keys[t, h - heads]
            first, second, low, high = head[:half], head[half:], target[:half], target[half:]
            for i in range(len(low)):
                p, q = wide(first[i]), wide(second[i])
                low[i] = narrow(p * a[i] - q * c[i])
                high[i] = narrow(q * b[i] + p * d[i])


@kernel(**FLAGS)
def rotate_gradients(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, cos: np.ndarray, sin: np.ndarray, of_qkv: np.ndarray
) -> None:
    """Write the gradients of what `rotate` reads, from those of what it writes."""
    heads, shared, size = queries.shape[1], keys.shape[1], queries.shape[2]
    half = size // 2
    for t in numba.prange(len(of_qkv)):
        a, b, c, d = cos[t, :half], cos[t, half:], sin[t, :half], sin[t, half:]
        for h in range(heads + 2 * shared):
            target = of_qkv[t, h * size : (h + 1) * size]
            if h >= heads + shared:
                value = values[t, h - heads - shared]
                for i in range(len(value)):
                    target[i] = value[i]
                continue
            head = queries[t, h] if h < heads else keys[t, h - heads]
            first, second, low, high = head[:half], head[half:], target[:half], target[half:]
            for i in range(len(low)):
                p, q = wide(first[i]), wide(second[i])
                low[i] = narrow(p * a[i] + q * d[i])
                high[i] = narrow(q * b[i] - p * c[i])


TILE = 64
"""Rows and columns that are transposed together: 16 KB of float32, half of the smallest first cache."""


@kernel(**FLAGS)
def transposed(x: np.ndarray, out: np.ndarray) -> None:
    """Write x [T, I / 4] into `out` [I, T / 4], transposed: words of four uint16 each, that stand behind one another.

    Sixteen numbers at a time, in registers: one by one, every number would be a read or a write of its own.
    """
    rows, columns = out.shape[1], x.shape[1]
    step = TILE // 4
    for tile in numba.prange((columns + step - 1) // step):
        for start in range(0, rows, step):
            for c in range(tile * step, min((tile + 1) * step, columns)):
                for r in range(start, min(start + step, rows)):
                    w0, w1, w2, w3 = x[4 * r, c], x[4 * r + 1, c], x[4 * r + 2, c], x[4 * r + 3, c]
                    # Halves of 32 bits change places first, then those of 16 within them.
                    a0, a2 = _exchange(w0, w2, np.uint64(32), np.uint64(0x00000000FFFFFFFF))
                    a1, a3 = _exchange(w1, w3, np.uint64(32), np.uint64(0x00000000FFFFFFFF))
                    w0, w1 = _exchange(a0, a1, np.uint64(16), np.uint64(0x0000FFFF0000FFFF))
                    w2, w3 = _exchange(a2, a3, np.uint64(16), np.uint64(0x0000FFFF0000FFFF))
                    out[4 * c, r], out[4 * c + 1, r], out[4 * c + 2, r], out[4 * c + 3, r] = w0, w1, w2, w3


@numba.njit(**INLINED)
def _exchange(first: np.uint64, second: np.uint64, bits: np.uint64, low: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return two words after the high halves of the first and the low ones of the second have changed places."""
    return (first & low) | ((second & low) << bits), ((first >> bits) & low) | (second & ~low)


@kernel(**FLAGS)
def widen_transposed(x: np.ndarray, add: bool, out: np.ndarray) -> None:
    """Write x [I, O / 4], words of four uint16, into `out` [O, I] float32, transposed; if `add`, add it."""
    rows, columns = out.shape[1], x.shape[1]
    step = TILE // 4
    for tile in numba.prange((columns + step - 1) // step):
        for start in range(0, rows, TILE):
            for c in range(tile * step, min((tile + 1) * step, columns)):
                t0, t1, t2, t3 = out[4 * c], out[4 * c + 1], out[4 * c + 2], out[4 * c + 3]
                for i in range(start, min(start + TILE, rows)):
                    word = x[i, c]
                    v0, v1 = wide(np.uint16(word)), wide(np.uint16(word >> np.uint64(16)))
                    v2, v3 = wide(np.uint16(word >> np.uint64(32))), wide(np.uint16(word >> np.uint64(48)))
                    if add:
                        v0, v1, v2, v3 = v0 + t0[i], v1 + t1[i], v2 + t2[i], v3 + t3[i]
                    t0[i], t1[i], t2[i], t3[i] = v0, v1, v2, v3
