"""Packed attention on CUDA: kernels that are compiled already where there are any, and FlexAttention for trunks.

Texts take the variable-length kernel of FlashAttention, from its own package or from torch (2.10 or later), in half
precision; else torch's attention, a call for each run of texts of one length. Long rows of trunks and branches take
FlexAttention, which is compiled for each kind of head and takes seconds to: so short ones take a dense mask. What
FlexAttention needs to know of a row, which blocks of queries see which blocks of keys (`block_masks`), is kept with the
layout: every layer of a model asks again.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from kat.packing.attention_trunks import attend_by_mask
from kat.packing.block_masks import block_mask
from kat.packing.layout import AttentionRule, Layout
from kat.packing.trunks import TrunkLayout

WIDEST = 256
"""Numbers of a head that FlashAttention knows at most, as many in values as in queries."""
EIGHT = 8
"""Numbers of a head that torch's copy of FlashAttention asks for a multiple of."""
NARROWEST = 16
"""Numbers of a head that FlexAttention asks for at least."""
SHORT = 512
"""Tokens of a row of trunks up to which a dense mask serves: a probe compiles nothing then.

Rows shorter than 128 tokens must not be above it: FlexAttention takes another kernel for them, which torch 2.11 does
not have for grouped heads of 16 numbers in float32.
"""


def attend_on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, rule: AttentionRule
) -> torch.Tensor | None:
    """Return attention [1, T, H, D'] of queries [1, H, T, D], keys and values [1, H', T, D'], every text for itself.

    None where no kernel takes it. Nothing is compiled; gradients go through.
    """
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and query.shape[-1] == value.shape[-1] <= WIDEST:
        if _has_package():
            return _flash(query, key, value, layout, rule)
        options = _varlen_options(rule, query.shape[-1]) if _has_flash(query.device) else None
        if options is not None:
            return _varlen_attention(query, key, value, layout, options)
    return None


def attend_on_cuda_trunks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    """Return the same over trunks and branches, causal, with gradients, whatever the precision."""
    attend = attend_by_mask if layout.total <= SHORT else attend_by_flex
    return attend(query, key, value, layout, rule)


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


@cache
def _has_package() -> bool:
    """Tell whether FlashAttention is installed: looking for it takes longer than launching it, and layers are many."""
    return importlib.util.find_spec("flash_attn") is not None


@cache
def _varlen() -> tuple[Callable[..., torch.Tensor] | None, frozenset[str]]:
    """Return torch's attention of variable lengths, if it has one, and the names of its arguments."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, frozenset()
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


@cache
def _has_flash(device: torch.device) -> bool:
    """Tell whether torch was built with FlashAttention, and the device is one that it knows: Ampere or later."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen_options(rule: AttentionRule, size: int) -> dict[str, Any] | None:
    """Return a rule for heads of `size` numbers as options of torch's function; None if it cannot express it.

    In torch 2.10 it has neither scale nor window; later it has no `is_causal`, which is a window with nothing ahead.
    """
    function, names = _varlen()
    options: dict[str, Any] = {}
    if "is_causal" in names:
        options["is_causal"] = rule.causal
    if "window_size" in names:
        reach = -1 if rule.window is None else rule.window - 1
        options["window_size"] = (reach, 0 if rule.causal else reach)
    if "scale" in names:
        options["scale"] = rule.scale
    scales = "scale" in names or (size % EIGHT == 0 and math.isclose(rule.scale, size**-0.5))
    sees = "window_size" in names or (rule.window is None and ("is_causal" in names or not rule.causal))
    return options if function is not None and scales and sees else None


def _varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, options: dict[str, Any]
) -> torch.Tensor:
    function, names = _varlen()
    assert function is not None
    bounds, _ = layout.on(query.device)
    size, groups = query.shape[-1], query.shape[1] // key.shape[1]
    query, key, value = (_filled_up(x, -(-size // EIGHT) * EIGHT) for x in (query, key, value))
    if groups > 1 and "enable_gqa" in names:
        options = options | {"enable_gqa": True}
    elif groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    given = (x[0].transpose(0, 1) for x in (query, key, value))
    rows = function(*given, bounds, bounds, layout.longest, layout.longest, **options)
    return rows[..., :size].unsqueeze(0)


def attend_by_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TrunkLayout, rule: AttentionRule
) -> torch.Tensor:
    """Return the same by FlexAttention, for rows of more than `SHORT` tokens."""
    mask = block_mask(layout, rule, query.device)
    width = value.shape[-1]
    query, key, value = (_filled_up(x, NARROWEST) for x in (query, key, value))
    for x in (query, key, value):
        torch._dynamo.mark_static(x, [0, 1, 3])  # rows differ in length alone; the kernel is made for its heads
    attend = _compiled(_variant(mask.mask_mod, query, key, value))
    grouped = query.shape[1] != key.shape[1]
    heads = attend(query, key, value, block_mask=mask, scale=rule.scale, enable_gqa=grouped)
    return heads[..., :width].transpose(1, 2)


def _filled_up(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return heads of `size` numbers at least, filled up with zeros, which change neither scores nor what is kept."""
    missing = size - x.shape[-1]
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
