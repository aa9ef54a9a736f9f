"""Packed attention on CUDA: the variable-length kernel of FlashAttention, else FlexAttention.

Both are imported where they are called: FlashAttention is no dependency, and torch has FlexAttention from 2.5 on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache

import torch

from kat.packing.layout import AttentionRule, Layout
from kat.packing.trunks import TrunkLayout


def attend_on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    """Return attention [1, T, H, D'] of queries [1, H, T, D], keys and values [1, H', T, D'], every text for itself."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    # FlashAttention knows half precision and heads of up to 256 numbers, as many in values as in queries.
    if half and query.shape[-1] == value.shape[-1] <= 256 and importlib.util.find_spec("flash_attn"):
        return _flash(query, key, value, layout, rule)
    return _flex(query, key, value, layout, rule)


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    bounds, _ = layout.on(query.device)
    # Tokens before and after a query that it sees; -1 is no limit.
    reach = (-1, -1) if rule.window is None else (rule.window - 1, 0 if rule.causal else rule.window - 1)
    rows = flash_attn_varlen_func(
        *(x[0].transpose(0, 1) for x in (query, key, value)),
        cu_seqlens_q=bounds,
        cu_seqlens_k=bounds,
        max_seqlen_q=layout.longest,
        max_seqlen_k=layout.longest,
        softmax_scale=rule.scale,
        causal=rule.causal,
        window_size=reach,
    )
    return rows.unsqueeze(0)


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    _, text = layout.on(query.device)
    causal, window = rule.causal, rule.window

    def sees(batch: torch.Tensor, head: torch.Tensor, asking: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        near = text[asking] == text[seen]
        if causal:
            near = near & (asking >= seen)
        if window is not None:
            near = near & ((asking - seen).abs() < window)
        return near

    mask = create_block_mask(sees, None, None, layout.total, layout.total, device=query.device)
    grouped = query.shape[1] != key.shape[1]
    heads = _compiled()(query, key, value, block_mask=mask, scale=rule.scale, enable_gqa=grouped)
    return heads.transpose(1, 2)


def attend_on_trunks_on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    """Return causal attention [1, T, H, D'] over trunks and branches, with gradients, by FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask

    until, positions = layout.on(query.device)
    window = rule.window

    def sees(batch: torch.Tensor, head: torch.Tensor, asking: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        near = (asking >= seen) & (asking < until[seen])
        return near if window is None else near & (positions[asking] - positions[seen] < window)

    mask = create_block_mask(sees, None, None, layout.total, layout.total, device=query.device)
    grouped = query.shape[1] != key.shape[1]
    heads = _compiled()(query, key, value, block_mask=mask, scale=rule.scale, enable_gqa=grouped)
    return heads.transpose(1, 2)


@lru_cache
def _compiled() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # Every pack has a length of its own, and without dynamic=True each length would be compiled again.
    return torch.compile(flex_attention, dynamic=True)
