"""Compiled loops of norms and gated activations in bfloat16, with their gradients, for `kat.packing.fused`.

`kat.packing.kernels` says what keeps them fast. Rows are shared out among torch's threads (`prange`).
"""

import numba
import numpy as np

from kat.compiled import kernel_flags
from kat.packing.kernels import INLINED, LOOSE, exp, narrow, wide

FLAGS = kernel_flags(__file__) | {"parallel": True, "fastmath": LOOSE}


@numba.njit(**FLAGS)
def rms_norm(x: np.ndarray, weight: np.ndarray, eps: np.float32, out: np.ndarray, inverse: np.ndarray) -> None:
    """Write x / √(mean x² + eps) · weight of rows [N, D] float32 into `out` [N, D] uint16; 1/√… into [N] float32."""
    for n in numba.prange(len(x)):
        row, normed = x[n], out[n]
        square = np.float32(0)
        for d in range(len(row)):
            square += row[d] * row[d]
        scale = np.float32(1) / np.sqrt(square / np.float32(len(row)) + eps)
        inverse[n] = scale
        for d in range(len(row)):
            normed[d] = narrow(row[d] * scale * weight[d])


@numba.njit(**FLAGS)
def rms_norm_gradients(
    x: np.ndarray, weight: np.ndarray, inverse: np.ndarray, grad: np.ndarray, of_x: np.ndarray, of_weight: np.ndarray
) -> None:
    """Write the gradients of x [N, D] float32, and of the weight in parts [P, D] float32, rows shared out among parts.

    With s = 1/√… and g the gradient of the output: s · (g·w − x · s² · mean(g·w·x)), and Σ g · x · s.
    """
    parts = len(of_weight)
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


@numba.njit(**INLINED)
def _sigmoid(x: np.float32) -> np.float32:
    """Return 1 / (1 + e^−x), to 1e-4: the exponential is of a number that is not above 0."""
    e = exp(-abs(x), np.float32(0))
    return (np.float32(1) if x >= 0 else e) / (np.float32(1) + e)


@numba.njit(**FLAGS)
def swiglu(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """Write silu(gate) · up of uint16 [N, D] into `out`."""
    for n in numba.prange(len(gate)):
        g, u, target = gate[n], up[n], out[n]
        for d in range(len(g)):
            v = wide(g[d])
            target[d] = narrow(v * _sigmoid(v) * wide(u[d]))


@numba.njit(**FLAGS)
def swiglu_gradients(
    gate: np.ndarray, up: np.ndarray, grad: np.ndarray, of_gate: np.ndarray, of_up: np.ndarray
) -> None:
    """Write the gradients of gate and up, uint16 [N, D]: g·u·σ(1 + x(1 − σ)) and g·x·σ for x the gate."""
    for n in numba.prange(len(gate)):
        x, u, g, of_x, of_u = gate[n], up[n], grad[n], of_gate[n], of_up[n]
        for d in range(len(x)):
            v, other, into = wide(x[d]), wide(u[d]), wide(g[d])
            s = _sigmoid(v)
            of_x[d] = narrow(into * other * s * (np.float32(1) + v * (np.float32(1) - s)))
            of_u[d] = narrow(into * v * s)


@numba.njit(**FLAGS)
def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, backward: bool, out: np.ndarray) -> None:
    """Write x [T, H, D] uint16 rotated by halves, x · cos + (−second half, first half) · sin with [T, D] float32, into
    `out`; if `backward`, the gradients of x for gradients x of what comes out."""
    heads, size = x.shape[1], x.shape[2]
    half = size // 2
    for t in numba.prange(len(x)):
        a, b, c, d = cos[t, :half], cos[t, half:], sin[t, :half], sin[t, half:]
        for h in range(heads):
            first, second, low, high = x[t, h, :half], x[t, h, half:], out[t, h, :half], out[t, h, half:]
            if backward:
                for i in range(len(low)):
                    p, q = wide(first[i]), wide(second[i])
                    low[i] = narrow(p * a[i] + q * d[i])
                    high[i] = narrow(q * b[i] - p * c[i])
            else:
                for i in range(len(low)):
                    p, q = wide(first[i]), wide(second[i])
                    low[i] = narrow(p * a[i] - q * c[i])
                    high[i] = narrow(q * b[i] + p * d[i])
