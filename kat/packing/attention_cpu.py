"""Attention in bfloat16 on a processor: two batched products a run of texts, compiled loops for what is between them.

torch's own attention is several times slower here than the products it is made of: it is written for rows of
thousands of keys, and a text has tens or hundreds (MiniLM, 32 tokens a text, AVX512-BF16: 7 ms a layer and 4,096
tokens against 2).

`kernels` is imported inside functions: numba loads with it, which a model in float32 or on a GPU never needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from kat.packing.layout import AttentionRule, Layout

SCORES = 1 << 19
"""Scores of one product, 1 MB: they stay in the second cache between the product that makes and the one that uses."""
LONGEST = 4096
"""Tokens up to which a text is read so: the scores of a longer one, 32 MB a head, are better never written."""
LANES = 16
"""Texts are filled up to a multiple of this many tokens, the float32 numbers of the widest registers: the rest of a
row would not be done in vectors. It also leaves few shapes of product (`batches`)."""


class Rows(NamedTuple):
    """Queries [T, H, D], keys [T, H', D] and values [T, H', D'] of a packed row, H a multiple of H'."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def groups(self) -> int:
        """Return the heads of queries that share one head of keys, H / H'."""
        return self.queries.shape[1] // self.keys.shape[1]


class Batch(NamedTuple):
    """Texts that share a product: first tokens in the row [B], lengths [B], and what these are filled up to."""

    starts: np.ndarray
    lengths: np.ndarray
    filled: int


def attend_by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    """Return attention [T, H, D'] of queries [1, H, T, D], keys and values [1, H', T, D'], every text for itself.

    All in bfloat16, on a processor, without gradients.
    """
    rows = Rows(*(x[0].transpose(0, 1) for x in (query, key, value)))
    rule = rule._replace(window=rule.window or layout.longest)
    out = rows.queries.new_empty(layout.total, query.shape[1], value.shape[-1])
    for texts, filled in batches(layout.lengths, query.shape[1]):
        batch = Batch(layout.bounds[texts], layout.lengths[texts], filled)
        for heads in _key_heads(rows, batch):
            _attend(rows, batch, heads, rule, out)
    return out


def batches(lengths: np.ndarray, heads: int) -> Iterator[tuple[slice, int]]:
    """Yield neighbouring texts whose lengths [B] fill up to the same number of tokens, and that number.

    As many texts as SCORES allows, else a power of two. oneDNN and torch keep their plans of each shape of product
    that they have met, half a megabyte apiece for the last thousand: 500 MB for texts of any length, in any number. Cut
    like this, in rows of a multiple of 32 tokens (the engine's filler), they took 23 MB.
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


def _key_heads(rows: Rows, batch: Batch) -> Iterator[range]:
    """Yield the heads of keys that are read together: all, but for a long text, whose scores would fill the memory."""
    heads = most = rows.keys.shape[1]
    if len(batch.lengths) == 1:
        most = max(1, 4 * SCORES // (rows.groups * batch.filled**2))
    for first in range(0, heads, most):
        yield range(first, min(first + most, heads))


def _attend(rows: Rows, batch: Batch, heads: range, rule: AttentionRule, out: torch.Tensor) -> None:
    """Write the attention of a batch's texts, for these heads of keys and their queries, into `out` [T, H, D'].

    The products see zeros behind a text's keys; the softmax does not. Its sum divides what comes out, not what goes
    into the second product: one pass over the shorter side.
    """
    from kat.packing import kernels

    groups = rows.groups
    query_heads = range(heads.start * groups, heads.stop * groups)
    queries = _gathered(rows.queries, batch, query_heads)
    keys, values = _gathered(rows.keys, batch, heads), _gathered(rows.values, batch, heads)
    # The queries of a group of heads stand one below the other before the keys that they share.
    shared = keys.shape[:2]
    queries = queries.view(shared.numel(), -1, queries.shape[-1])
    keys, values = (x.view(len(queries), batch.filled, -1) for x in (keys, values))
    # beta=0 ignores the first argument: this product takes the scale along, which bmm does not.
    scores = torch.baddbmm(queries.new_empty(1, 1, 1), queries, keys.transpose(1, 2), beta=0, alpha=rule.scale)
    totals = np.empty((*shared, scores.shape[1]), np.float32)
    words = as_words(scores.view(*totals.shape, batch.filled))
    kernels.exponentials(words, batch.lengths, rule.causal, rule.window, totals)
    sums = torch.bmm(scores, values).view(len(batch.lengths), len(query_heads), batch.filled, -1)
    kernels.scatter(
        texts=as_words(sums),
        totals=totals.reshape(sums.shape[:3]),
        head=query_heads.start,
        starts=batch.starts,
        lengths=batch.lengths,
        row=as_words(out),
    )


def _gathered(row: torch.Tensor, batch: Batch, heads: range) -> torch.Tensor:
    """Return these heads of the batch's texts in a row [T, ·, D] as [B, heads, filled, D]."""
    from kat.packing import kernels

    texts = row.new_empty(len(batch.lengths), len(heads), batch.filled, row.shape[2])
    kernels.gather(as_words(row), heads.start, batch.starts, batch.lengths, as_words(texts))
    return texts


def as_words(x: torch.Tensor) -> np.ndarray:
    """Return the memory of a bfloat16 tensor as uint16, for NumPy has no bfloat16."""
    return x.view(torch.uint16).numpy()
