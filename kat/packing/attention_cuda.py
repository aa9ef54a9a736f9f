"""Packed attention on CUDA: the variable-length kernel of FlashAttention, else FlexAttention, else text by text."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import TYPE_CHECKING

from kat.packing.layout import Layout

if TYPE_CHECKING:
    import torch


def attend_on_cuda(q, k, v, layout: Layout, scale: float, causal: bool, window: int | None) -> torch.Tensor:
    """[1, H, T, D] → [1, T, H, D'], every text for itself."""
    import torch

    half = q.dtype in (torch.bfloat16, torch.float16)
    if half and q.shape[-1] == v.shape[-1] <= 256 and importlib.util.find_spec("flash_attn"):
        return _flash(q, k, v, layout, scale, causal, window)
    return _flex(q, k, v, layout, scale, causal, window)


def _flash(q, k, v, layout: Layout, scale: float, causal: bool, window: int | None) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    bounds, _ = layout.on(q.device)
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    reach = (-1, -1) if window is None else (window - 1, 0 if causal else window - 1)
    found = flash_attn_varlen_func(
        q, k, v, bounds, bounds, layout.longest, layout.longest, softmax_scale=scale, causal=causal, window_size=reach
    )
    return found.unsqueeze(0)


def _flex(q, k, v, layout: Layout, scale: float, causal: bool, window: int | None) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    _, text = layout.on(q.device)

    def sees(batch, head, query, key):
        near = text[query] == text[key]
        if causal:
            near = near & (query >= key)
        if window is not None:
            near = near & ((query - key).abs() < window)
        return near

    mask = create_block_mask(sees, None, None, layout.total, layout.total, device=q.device)
    found = _compiled()(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return found.transpose(1, 2)


@lru_cache
def _compiled():
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
