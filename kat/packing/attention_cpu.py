"""Attention in bfloat16 on a processor: two batched products a run of texts, compiled loops for what is between them.

torch's own attention is several times slower here than the products it is made of: it is written for rows of
thousands of keys, and a text has tens or hundreds (MiniLM, 32 tokens a text, AVX512-BF16: 7 ms a layer and 4,096
tokens against 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from kat.packing.layout import Layout

if TYPE_CHECKING:
    import torch

Texts = tuple[np.ndarray, np.ndarray, int]
"""First tokens in the row [B], lengths [B], and the length that they are filled up to."""

SCORES = 1 << 19
"""Scores of one product, 1 MB: they stay in the second cache between the product that makes and the one that uses."""
LONGEST = 4096
"""Tokens up to which a text is read so: the scores of a longer one, 32 MB a head, are better never written."""
LANES = 16
"""Texts are filled up to a multiple of this, the float32 numbers of the widest registers."""


def attend_by_products(q, k, v, layout: Layout, scale: float, causal: bool, window: int | None) -> torch.Tensor:
    """Queries [1, H, T, D], keys and values [1, H', T, D'], all bfloat16 → [T, H, D'], every text for itself."""
    rows = [x[0].transpose(0, 1) for x in (q, k, v)]
    out = rows[0].new_empty(layout.total, q.shape[1], v.shape[-1])
    shared = k.shape[1]
    for texts, filled in alike(layout.lengths, q.shape[1]):
        part = (layout.bounds[texts], layout.lengths[texts], filled)
        heads = shared if len(part[1]) > 1 else max(1, 4 * SCORES // (q.shape[1] // shared * filled**2))
        for first in range(0, shared, heads):  # a long text's scores would leave any memory
            _attend(*rows, part, (first, min(first + heads, shared)), scale, causal, window or layout.longest, out)
    return out


def alike(lengths: np.ndarray, heads: int) -> Iterator[tuple[slice, int]]:
    """Neighbouring texts whose lengths fill up to the same number of tokens, and that number.

    As many as SCORES allows, else a power of two: oneDNN keeps half a megabyte for each shape of product that it has
    met, and a thousand of them if it meets so many.
    """
    filled = -(-lengths // LANES) * LANES
    cuts = [0, *(np.flatnonzero(np.diff(filled)) + 1).tolist(), len(lengths)]
    for start, stop in pairwise(cuts):
        size = int(filled[start])
        most = max(1, SCORES // (heads * size * size))
        while start < stop:
            count = most if most <= stop - start else 1 << (stop - start).bit_length() - 1
            yield slice(start, start + count), size
            start += count


def _attend(q, k, v, texts: Texts, heads: tuple[int, int], scale: float, causal: bool, window: int, out) -> None:
    """Some texts of rows [T, H, D] into `out` [T, H, D'], for the heads of keys from the first to before the last.

    The products see zeros behind a text's keys; the softmax does not. Its sum divides what comes out, not what goes
    into the second product: one pass over the shorter side.
    """
    import torch

    from kat.packing import kernels

    starts, lengths, filled = texts
    first, count = heads[0], heads[1] - heads[0]
    groups = q.shape[1] // k.shape[1]
    asked = _gathered(q, texts, first * groups, count * groups)
    keys, values = (_gathered(x, texts, first, count) for x in (k, v))
    # The queries of a group of heads stand one below the other before the keys that they share.
    shared = keys.shape[:2]
    asked = asked.view(shared.numel(), -1, asked.shape[-1])
    keys, values = keys.view(len(asked), filled, -1), values.view(len(asked), filled, -1)
    scores = torch.baddbmm(asked.new_empty(1, 1, 1), asked, keys.transpose(1, 2), beta=0, alpha=scale)
    totals = np.empty((*shared, scores.shape[1]), np.float32)
    kernels.exponentials(as_words(scores.view(*totals.shape, filled)), lengths, causal, window, totals)
    found = torch.bmm(scores, values).view(len(lengths), count * groups, filled, -1)
    kernels.scatter(as_words(found), totals.reshape(found.shape[:3]), first * groups, starts, lengths, as_words(out))


def _gathered(row: torch.Tensor, texts: Texts, head: int, heads: int) -> torch.Tensor:
    """The texts of a row [T, ·, D] as [B, heads, filled, D], from `head` on."""
    from kat.packing import kernels

    starts, lengths, filled = texts
    found = row.new_empty(len(lengths), heads, filled, row.shape[2])
    kernels.gather(as_words(row), head, starts, lengths, as_words(found))
    return found


def as_words(x: torch.Tensor) -> np.ndarray:
    """The same memory as uint16."""
    import torch

    return x.view(torch.uint16).numpy()
