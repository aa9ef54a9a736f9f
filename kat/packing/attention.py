"""Attention inside each text of a packed row, as a function that any model of transformers can be switched to.

`register()` makes the name `kat_packed` known to transformers' attention interface. A model switched to it and called
with one row of tokens, their positions and `layout=` (a `Layout`) gives each token the hidden state that it would have
if its text were alone. No model is rewritten: linear layers, norms and embeddings read the row as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kat.packing.attention_cpu import LONGEST, attend_by_products
from kat.packing.layout import Layout, Run

if TYPE_CHECKING:
    import torch

NAME = "kat_packed"
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask", "cache")


class NotPackedError(NotImplementedError):
    """Attention of a kind that a packed row cannot have. Never reaches a user: the model is read in batches then."""


def register() -> str:
    """Make `kat_packed` known to transformers; returns the name. Harmless when repeated."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)
    return NAME


def packed_mask(*, local_size: int | None = None, device: torch.device | str = "cpu", **_: Any) -> torch.Tensor | None:
    """No mask: the layout says it all. A local window is handed on as a [1, 1, 1, 1] number, so that a layer that
    does not know its own window is found out."""
    import torch

    return None if local_size is None else torch.full((1, 1, 1, 1), local_size, device=device)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [1, H, T, D], keys and values [1, H', T, D'] → [1, T, H, D'], every text for itself.

    H is a multiple of H' (grouped queries). Causal where the layer is, within `sliding_window` tokens (the token
    itself included, as FlashAttention counts) where the layer has one. Raises NotPackedError for what it cannot do.
    """
    import torch

    _check(query, key, attention_mask, dropout, sliding_window, layout, more)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window < layout.longest else None
    # Rotary positions leave queries and keys in float32 beside values in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if query.is_cuda:
        from kat.packing.attention_cuda import attend_on_cuda

        return attend_on_cuda(query, key, value, layout, scale, causal, window), None
    quick = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    if quick and layout.longest <= LONGEST:
        return attend_by_products(query, key, value, layout, scale, causal, window).unsqueeze(0), None
    out = value.new_empty(layout.total, query.shape[1], value.shape[-1])
    for run in layout.runs:
        parts = [_texts(x, run) for x in (query, key, value)]
        found = _attend(*parts, scale, causal and run.length > 1, _keep(run.length, causal, window, query.device))
        out[run.start : run.stop].view(run.count, run.length, *out.shape[1:]).copy_(found.transpose(1, 2))
    return out.unsqueeze(0), None


def _check(query, key, mask, dropout, sliding_window, layout: Layout | None, more: dict[str, Any]) -> None:
    if layout is None:
        raise NotPackedError("the model does not hand the layout on to its attention")
    if query.shape[0] != 1 or query.shape[2] != layout.total or key.shape[2] != layout.total:
        raise NotPackedError(f"attention over {tuple(query.shape)} does not fit one row of {layout.total} tokens")
    if mask is not None and (mask.numel() != 1 or sliding_window is None):
        raise NotPackedError("a layer has a mask of its own")
    if strange := [name for name in _UNKNOWN if more.get(name) is not None]:
        raise NotPackedError(f"its attention has {', '.join(strange)}")
    if dropout:
        raise NotPackedError("dropout is on; call model.eval() first")


def _texts(x: torch.Tensor, run: Run) -> torch.Tensor:
    """[1, H, T, D] → the run's texts [B, H, L, D], a view."""
    return x[0, :, run.start : run.stop].unflatten(1, (run.count, run.length)).transpose(0, 1)


def _keep(length: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which keys each query sees, [L, L] bool; None for all of them, or for plain causal attention."""
    import torch

    if window is None or window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window


def _attend(q, k, v, scale: float, causal: bool, keep: torch.Tensor | None) -> torch.Tensor:
    """Attention of texts [B, H, L, D] of one length."""
    import torch

    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=keep, is_causal=causal and keep is None, scale=scale
    )
