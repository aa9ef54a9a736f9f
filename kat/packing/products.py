"""Attention in bfloat16 on a processor: two batched products a run of texts, compiled loops for what is between them.

torch's own attention is several times slower here than the products it is made of: it is written for rows of
thousands of keys, and a text has tens or hundreds (MiniLM, 32 tokens a text, AVX512-BF16: 7 ms a layer and 4,096
tokens against 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kat.packing.layout import Layout, Run

if TYPE_CHECKING:
    import torch

SCORES = 1 << 19
"""Scores of one product, 1 MB: they stay in the second cache between the product that makes and the one that uses."""
_LANES = 16
"""Keys are filled up to a multiple of this, the float32 numbers of the widest registers."""


def attend_by_products(q, k, v, layout: Layout, scale: float, causal: bool, window: int | None) -> torch.Tensor:
    """Queries [1, H, T, D], keys and values [1, H', T, D'], all bfloat16 → [T, H, D'], every text for itself."""
    rows = [x[0].transpose(0, 1) for x in (q, k, v)]
    out = rows[0].new_empty(layout.total, q.shape[1], v.shape[-1])
    for run in layout.runs:
        seen = seen_keys(run.length, causal, window)
        step = max(1, SCORES // (q.shape[1] * run.length**2))
        for first in range(0, run.count, step):
            count = min(step, run.count - first)
            part = Run(run.start + first * run.length, count, run.length)
            _attend(*rows, part, scale, *seen, out)
    return out


def seen_keys(length: int, causal: bool, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The keys that query i sees are first[i] … last[i] − 1; one number where all queries see the same."""
    if not causal and (window is None or window >= length):
        return np.zeros(1, np.int64), np.full(1, length)
    at, reach = np.arange(length), length if window is None else window
    return np.maximum(at - reach + 1, 0), at + 1 if causal else np.minimum(at + reach, length)


def _attend(q, k, v, run: Run, scale: float, first: np.ndarray, last: np.ndarray, out: torch.Tensor) -> None:
    """One run of texts from rows [T, H, D] into `out` [T, H, D'].

    The products see zeros behind a text's keys; the softmax does not. Its sum divides what comes out, not what goes
    into the second product: one pass over the shorter side.
    """
    import torch

    from kat.packing import kernels

    filled = -(-run.length // _LANES) * _LANES
    groups = q.shape[1] // k.shape[1]
    asked, keys, values = (_gathered(x, run, length) for x, length in ((q, run.length), (k, filled), (v, filled)))
    # The queries of a group of heads stand one below the other before the keys that they share.
    asked = asked.view(-1, groups * run.length, asked.shape[-1])
    keys, values = keys.view(len(asked), filled, -1), values.view(len(asked), filled, -1)
    scores = torch.baddbmm(asked.new_empty(1, 1, 1), asked, keys.transpose(1, 2), beta=0, alpha=scale)
    totals = np.empty(scores.shape[:2], np.float32)
    kernels.exponentials(_words(scores), first, last, totals)
    found = torch.bmm(scores, values).view(run.count, q.shape[1], run.length, -1)
    kernels.scatter(_words(found), totals.reshape(found.shape[:3]), run.start, _words(out))


def _gathered(row: torch.Tensor, run: Run, length: int) -> torch.Tensor:
    """The run's texts of a row [T, H, D] as [B, H, length, D]."""
    from kat.packing import kernels

    found = row.new_empty(run.count, row.shape[1], length, row.shape[2])
    kernels.gather(_words(row), run.start, run.length, _words(found))
    return found


def _words(x: torch.Tensor) -> np.ndarray:
    """The same memory as uint16."""
    import torch

    return x.view(torch.uint16).numpy()
