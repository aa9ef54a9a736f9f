"""Packed attention on CUDA: the variable-length kernel of FlashAttention, else FlexAttention.

Both are imported where they are called: FlashAttention is no dependency, and torch has FlexAttention from 2.5 on.
What FlexAttention needs to know of a row, which blocks of queries see which blocks of keys (`block_masks`), is kept
with the layout: every layer of a model asks again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from kat.packing.block_masks import block_mask
from kat.packing.layout import AttentionRule, Layout
from kat.packing.trunks import TrunkLayout

NARROWEST = 16
"""Numbers of a head that FlexAttention asks for at least."""


def attend_on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    """Return attention [1, T, H, D'] of queries [1, H, T, D], keys and values [1, H', T, D'], every text for itself."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    # FlashAttention knows half precision and heads of up to 256 numbers, as many in values as in queries.
    if half and query.shape[-1] == value.shape[-1] <= 256 and importlib.util.find_spec("flash_attn"):
        return _flash(query, key, value, layout, rule)
    return attend_by_flex(query, key, value, layout, rule)


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


def attend_by_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout | TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    """Return attention [1, T, H, D'] over texts, or causally over trunks and branches, by FlexAttention, with
    gradients."""
    mask = block_mask(layout, rule, query.device)
    width = value.shape[-1]
    query, key, value = (_wide_enough(x) for x in (query, key, value))
    for x in (query, key, value):
        torch._dynamo.mark_static(x, [0, 1, 3])  # rows differ in length alone; the kernel is made for its heads
    attend = _compiled(_variant(mask.mask_mod, query, key, value))
    grouped = query.shape[1] != key.shape[1]
    heads = attend(query, key, value, block_mask=mask, scale=rule.scale, enable_gqa=grouped)
    return heads[..., :width].transpose(1, 2)


def _wide_enough(x: torch.Tensor) -> torch.Tensor:
    """Return heads filled up with zeros, which change neither scores nor the numbers that are kept."""
    missing = NARROWEST - x.shape[-1]
    return x if missing <= 0 else torch.nn.functional.pad(x, (0, missing))


def _variant(sees: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[Any, ...]:
    """Return what FlexAttention compiles a kernel of its own for, but for lengths."""
    shapes = [x.shape[i] for x in (query, key, value) for i in (1, 3)]
    passes = any(x.requires_grad for x in (query, key, value)) and torch.is_grad_enabled()
    casts = torch.is_autocast_enabled(query.device.type)
    return (
        sees.__code__,
        query.dtype,
        *shapes,
        passes,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        casts,
    )


@cache
def _compiled(variant: tuple[Any, ...]) -> Callable[..., torch.Tensor]:
    """Return FlexAttention compiled for a variant, for rows of any length.

    torch counts what it has compiled of a function's code, and beyond eight it reads without a kernel, with all scores
    in memory: so every variant is a function with code of its own.
    """
    from torch.nn.attention.flex_attention import flex_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any) -> torch.Tensor:
        return flex_attention(query, key, value, **more)

    attend.__code__ = attend.__code__.replace(co_name="attend")  # a new code object
    # Every pack has a length of its own, and without dynamic=True each length would be compiled again.
    return torch.compile(attend, dynamic=True)
