"""What stands between the products of a block while it trains in bfloat16 on a processor: one pass over memory each.

torch makes a tensor of each step of a norm, and casts what comes out once for every product that reads it. Here a root
mean square norm gives bfloat16 at once, and silu(gate) · up is one loop, both with their gradients. Modules keep their
names and parameters: only their `forward` is exchanged, and falls back on their own wherever these loops do not serve.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kat.packing.attention_cpu import as_words

_PARTS = 16
"""Parts that rows are shared out in where a sum over rows is wanted; more than any processor of a laptop has cores."""
_CLOSE = 0.02
"""Largest difference from a module's own output that is taken for bfloat16's rounding, of the largest number."""


def fuse_for_training(model: torch.nn.Module) -> int:
    """Exchange the forward passes of norms and gated layers that give what these loops give; return how many."""
    count = 0
    for module in model.modules():
        fused = _fused_norm(module) or _fused_gate(module)
        if fused is not None:
            module.forward = fused
            count += 1
    return count


def _serves(x: torch.Tensor) -> bool:
    """Tell whether a pass is one for these loops: bfloat16 by autocast, on a processor."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and x.dim() >= 2


def _fused_norm(norm: Any) -> Any:
    """Return the new forward of a norm; None for what is no root mean square norm, whatever its name."""
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    weight = getattr(norm, "weight", None)
    if not type(norm).__name__.endswith("RMSNorm") or not isinstance(eps, float) or weight is None or weight.dim() != 1:
        return None
    plain = norm.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not _serves(x) or x.dtype != torch.float32:
            return plain(x)
        return _RMSNorm.apply(x, norm.weight, eps)

    x = _probe(len(weight))
    return forward if _agree(forward, plain, x) else None


def _fused_gate(layer: Any) -> Any:
    """Return the new forward of a layer down(silu(gate(x)) · up(x)); None for any other."""
    if not all(isinstance(getattr(layer, n, None), torch.nn.Linear) for n in ("gate_proj", "up_proj", "down_proj")):
        return None
    probe = torch.linspace(-6, 6, 101)
    act = getattr(layer, "act_fn", None)
    if act is None or not torch.allclose(act(probe), torch.nn.functional.silu(probe), atol=1e-5):
        return None
    plain = layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not _serves(x):
            return plain(x)
        gate, up = layer.gate_proj(x), layer.up_proj(x)
        if gate.dtype != torch.bfloat16:
            return plain(x)
        return layer.down_proj(_SwiGLU.apply(gate, up))

    return forward if _agree(forward, plain, _probe(layer.gate_proj.in_features)) else None


def _probe(width: int) -> torch.Tensor:
    return (torch.linspace(-3, 5, 4 * width).sin() + 0.5).view(4, width)


def _agree(forward: Any, plain: Any, x: torch.Tensor) -> bool:
    """Tell whether two passes give the same in bfloat16; one that does not take a tensor does not."""
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            first, second = forward(x).float(), plain(x).float()
    except (TypeError, RuntimeError):
        return False
    return first.shape == second.shape and bool((first - second).abs().max() <= _CLOSE * second.abs().max())


class _RMSNorm(torch.autograd.Function):
    """x [..., D] float32 → bfloat16, x / √(mean x² + eps) · weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows = x.detach().contiguous().view(-1, x.shape[-1])
        out, inverse = torch.empty(rows.shape, dtype=torch.bfloat16), torch.empty(len(rows))
        scale = weight.detach().float()
        _kernels().rms_norm(rows.numpy(), scale.numpy(), np.float32(eps), as_words(out), inverse.numpy())
        ctx.save_for_backward(rows, weight, inverse)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, inverse = ctx.saved_tensors
        grad = grad.to(torch.bfloat16).contiguous()
        of_x, parts = torch.empty_like(rows), torch.empty(_PARTS, rows.shape[1])
        words = as_words(grad.view(rows.shape))
        scale = weight.detach().float().numpy()
        arrays = {"grad": words, "of_x": of_x.numpy(), "of_weight": parts.numpy()}
        _kernels().rms_norm_gradients(rows.numpy(), scale, inverse.numpy(), **arrays)
        of_weight = parts.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return of_x.view(grad.shape), of_weight, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) · up of [..., D] bfloat16."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _kernels().swiglu(*map(_rows, (gate, up, out)))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        grad = grad.to(gate.dtype).contiguous()
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        _kernels().swiglu_gradients(*map(_rows, (gate, up, grad, of_gate, of_up)))
        return of_gate, of_up


def _rows(x: torch.Tensor) -> np.ndarray:
    return as_words(x.detach().view(-1, x.shape[-1]))


def _kernels() -> Any:
    from kat.packing import train_kernels  # numba loads with it: only where it is needed

    return train_kernels
