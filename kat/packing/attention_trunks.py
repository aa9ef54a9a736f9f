"""Attention over trunks and branches, with gradients: products of blocks that are seen whole or causally, and no mask.

A row's attention is taken apart into blocks (`blocks`): every segment's own tokens, causally, many segments of about
one length to a product; and for each trunk all tokens behind it, which see all of it. A token's blocks are joined by
the logarithms of their sums, as FlashAttention joins its tiles (Dao et al. 2022, § 3.1). Nothing of size queries × keys
is kept for the gradients: the backward pass makes the scores again and needs only the output and one number a token
and head (the same paper, § B.2), whichever block they belong to.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from kat.packing.block_steps import PlainSteps, steps_for
from kat.packing.blocks import Block, blocks
from kat.packing.layout import AttentionRule
from kat.packing.trunks import TrunkLayout


def attend_on_trunks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    """Return attention [1, T, H, D'] of queries [1, H, T, D], keys and values [1, H', T, D'], causal, with gradients.

    By blocks; by a dense mask under a window, for what a branch sees of its trunk depends on each token's place then.
    """
    if rule.window is not None:
        return attend_by_mask(query, key, value, layout, rule)
    rows = (x[0].transpose(0, 1) for x in (query, key, value))
    return _Attention.apply(*rows, layout, rule.scale).unsqueeze(0)


def attend_by_mask(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    """Return the same by torch's own attention under a dense mask, tree by tree: any window, device and precision."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    trees = []
    for start, stop in pairwise(layout.trees.tolist()):
        q, k, v = (x[:, :, start:stop] for x in (query, key, value))
        keep = sees(layout, rule.window, start, stop, query.device)
        trees.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=keep, scale=rule.scale))
    return torch.cat(trees, 2).transpose(1, 2)


def sees(layout: TrunkLayout, window: int | None, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Return which of the tokens start … stop − 1 each of them sees, [L, L] bool."""
    until, positions = (x[start:stop] for x in layout.on(device))
    i = torch.arange(start, stop, device=device)
    keep = (i[:, None] >= i) & (i[:, None] < until)
    if window is not None:
        keep &= positions[:, None] - positions < window
    return keep


class _Attention(torch.autograd.Function):
    """Attention [T, H, D'] of queries [T, H, D], keys [T, H', D] and values [T, H', D'] over a layout's blocks."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, scale: float
    ) -> torch.Tensor:
        steps = steps_for(query)
        out = query.new_empty((*query.shape[:2], value.shape[2]), dtype=_wide(query))
        lse = query.new_empty(query.shape[:2], dtype=_wide(query))
        for block in blocks(layout, query.shape[1]):
            q, k, v = _stretches(steps, block, query, key, value)
            scores = _scores(q, k, scale)
            totals = steps.softmax(scores.view(len(block.keys.starts), key.shape[1], *scores.shape[1:]), block)
            sums = torch.bmm(scores, v).view(len(block.keys.starts), query.shape[1], block.queries.filled, -1)
            steps.join(sums, totals, block, out, lse)
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.layout, ctx.scale = layout, scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, result, lse = ctx.saved_tensors
        steps = steps_for(query)
        delta = steps.products(grad, result, lse)
        rows = [torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (query, key, value)]
        for block in blocks(ctx.layout, query.shape[1]):
            q, k, v = _stretches(steps, block, query, key, value)
            into = steps.gather(grad, block.queries).view(*q.shape[:2], -1)
            scores, grads = _scores(q, k, ctx.scale), torch.bmm(into, v.transpose(1, 2))
            shape = (len(block.keys.starts), key.shape[1], *scores.shape[1:])
            steps.gradients(scores.view(shape), grads.view(shape), block, lse=lse, delta=delta, scale=ctx.scale)
            gradients = (
                torch.bmm(grads, k),
                torch.bmm(grads.transpose(1, 2), q),
                torch.bmm(scores.transpose(1, 2), into),
            )
            for stretches, spans, row in zip(gradients, (block.queries, block.keys, block.keys), rows, strict=True):
                steps.add(stretches.view(len(spans.starts), row.shape[1], spans.filled, -1), spans, row)
        return (*(row.to(query.dtype) for row in rows), None, None)


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _stretches(steps: PlainSteps, block: Block, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
    """Return queries [B·H', G·L, D], those of the heads that share keys below one another, keys and values
    [B·H', K, D]."""
    k, v = (steps.gather(x, block.keys).flatten(0, 1) for x in (key, value))
    q = steps.gather(query, block.queries)
    return q.view(len(k), -1, q.shape[-1]), k, v


def _scores(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    # beta=0 ignores the first argument: this product takes the scale along, which bmm does not.
    return torch.baddbmm(queries.new_empty(1, 1, 1), queries, keys.transpose(1, 2), beta=0, alpha=scale)
