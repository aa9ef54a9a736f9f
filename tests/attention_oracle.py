"""Attention by its definition, in float64: what every way of packed attention is measured against."""

from __future__ import annotations

import torch


def softmax_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, keep: torch.Tensor
) -> torch.Tensor:
    """Return attention [H, L, D'] of one text's queries [H, L, D], keys and values [H', L, D'] over `keep` [L, L]."""
    k, v = (x.double().repeat_interleave(len(q) // len(k), 0) for x in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * scale
    return scores.masked_fill(~keep, -torch.inf).softmax(-1) @ v


def keep(length: int, causal: bool, window: int | None) -> torch.Tensor:
    """Return which keys each query sees, [L, L] bool: less than `window` away, and none after it if `causal`."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    near = distance.abs() < (window or length)
    return near & (distance >= 0) if causal else near
