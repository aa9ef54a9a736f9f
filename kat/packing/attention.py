"""Attention inside each text of a packed row, as a function that any model of transformers can be switched to.

`register()` makes the name `kat_packed` known to transformers' attention interface. A model switched to it and called
with one row of tokens, their positions and `layout=` (a `Layout`) gives each token the hidden state that it would have
if its text were read unpacked. No model is rewritten: linear layers, norms and embeddings read the row as it is.

torch is imported inside functions, and what is for one device only where a tensor is on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kat.packing.layout import AttentionRule, Layout, Run
from kat.packing.trunks import TrunkLayout

if TYPE_CHECKING:
    import torch

    from kat.packing.decode import DecodeLayout

NAME = "kat_packed"
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask", "cache")
"""Arguments of attention functions that change what comes out, and that no function here knows."""


class NotPackedError(NotImplementedError):
    """Attention of a kind that a packed row cannot have. Never reaches a user: the model is read in batches then."""


def register() -> str:
    """Make `kat_packed` known to transformers; return the name. Harmless when repeated."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)
    return NAME


def packed_mask(*, local_size: int | None = None, device: torch.device | str = "cpu", **_: Any) -> torch.Tensor | None:
    """Return no mask: the layout says it all.

    A local window is handed on as a [1, 1, 1, 1] number, so that `_check` finds out a layer that does not know its
    own window: it gets a mask and no `sliding_window`.
    """
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
    layout: Layout | TrunkLayout | DecodeLayout | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention [1, T, H, D'] of queries [1, H, T, D], keys and values [1, H', T, D'], every text for itself.

    H is a multiple of H' (grouped queries). Causal where the layer is, within `sliding_window` tokens (the token
    itself included, as FlashAttention counts) where the layer has one. The arguments are those that transformers
    calls attention functions with. Raises NotPackedError for what it cannot do.
    """
    layout = _check(query, key, layout, attention_mask, more | {"dropout": dropout, "window": sliding_window})
    rule = AttentionRule(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=bool(getattr(module, "is_causal", True) if is_causal is None else is_causal),
        window=sliding_window if sliding_window and sliding_window < layout.longest else None,
    )
    # Rotary positions leave queries and keys in float32 beside values in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if isinstance(layout, TrunkLayout):
        return _dispatch_trunks(query, key, value, layout, rule), None
    if type(layout) is Layout:
        return _dispatch(query, key, value, layout, rule), None
    return _dispatch_kept(module, query, key, value, layout=layout, rule=rule), None


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    layout: Layout | TrunkLayout | DecodeLayout | None,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> Layout | TrunkLayout | DecodeLayout:
    """Return the layout, or raise NotPackedError where the row does not fit it, or the attention is of another kind."""
    if layout is None:
        raise NotPackedError("the model does not hand the layout on to its attention")
    if query.shape[0] != 1 or query.shape[2] != layout.total or key.shape[2] != layout.total:
        raise NotPackedError(f"attention over {tuple(query.shape)} does not fit one row of {layout.total} tokens")
    if mask is not None and (mask.numel() != 1 or options["window"] is None):
        raise NotPackedError("a layer has a mask of its own")
    if strange := [name for name in _UNKNOWN if options.get(name) is not None]:
        raise NotPackedError(f"its attention has {', '.join(strange)}")
    if options["dropout"]:
        raise NotPackedError("dropout is on; call model.eval() first")
    return layout


def _dispatch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    """Attend by the quickest way that the device, the precision and the texts' lengths allow."""
    import torch

    if query.is_cuda:
        from kat.packing.attention_cuda import attend_on_cuda

        rows = attend_on_cuda(query, key, value, layout, rule)
        return attend_by_runs(query, key, value, layout, rule) if rows is None else rows
    # The compiled loops read bfloat16 and have no gradients.
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        from kat.packing.attention_cpu import LONGEST, attend_by_products

        if layout.longest <= LONGEST:
            return attend_by_products(query, key, value, layout, rule).unsqueeze(0)
    return attend_by_runs(query, key, value, layout, rule)


def _dispatch_trunks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    if not rule.causal:
        raise NotPackedError("a trunk is shared by causal attention alone: other attention looks ahead")
    if query.is_cuda:
        from kat.packing.attention_cuda import attend_on_cuda_trunks

        return attend_on_cuda_trunks(query, key, value, layout, rule)
    from kat.packing.attention_trunks import attend_on_trunks

    return attend_on_trunks(query, key, value, layout, rule)


def _dispatch_kept(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout | DecodeLayout,
    rule: AttentionRule,
) -> torch.Tensor:
    """Attend where keys and values are kept for what is said later, or were kept before."""
    from kat.packing.decode import DecodeLayout, PrefillLayout, attend_to_kept

    number = getattr(module, "layer_idx", None)
    if not rule.causal or number is None:
        raise NotPackedError("keys are kept for causal attention alone, of layers that know their number")
    if isinstance(layout, DecodeLayout):
        return attend_to_kept(number, query, key, value, layout=layout, rule=rule)
    assert isinstance(layout, PrefillLayout)
    layout.keep(number, key, value)
    return _dispatch(query, key, value, layout, rule)


def attend_by_runs(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor:
    """Return the same by torch's own attention, a call for each run of texts of one length: any device and precision.

    Gradients go through. A text of one token needs no causal mask, and torch is quicker without one.
    """
    out = value.new_empty(layout.total, query.shape[1], value.shape[-1])
    for run in layout.runs:
        q, k, v = (_texts(x, run) for x in (query, key, value))
        keep = _keep(run.length, rule, query.device)
        texts = _attend(q, k, v, keep, rule._replace(causal=rule.causal and run.length > 1))
        out[run.start : run.stop].view(run.count, run.length, *out.shape[1:]).copy_(texts.transpose(1, 2))
    return out.unsqueeze(0)


def _texts(x: torch.Tensor, run: Run) -> torch.Tensor:
    """Return the run's texts [B, H, L, D] in [1, H, T, D], a view."""
    return x[0, :, run.start : run.stop].unflatten(1, (run.count, run.length)).transpose(0, 1)


def _keep(length: int, rule: AttentionRule, device: torch.device) -> torch.Tensor | None:
    """Return which keys each query sees, [L, L] bool; None for all of them, or for plain causal attention."""
    import torch

    if rule.window is None or rule.window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < rule.window) if rule.causal else distance.abs() < rule.window


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor | None, rule: AttentionRule
) -> torch.Tensor:
    """Return the attention of texts [B, H, L, D] of one length."""
    import torch

    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=keep, is_causal=rule.causal and keep is None, scale=rule.scale
    )
