"""What stands between the products of a block while it trains in bfloat16 on a processor: one pass over memory each.

torch makes a tensor of each step of a norm, and casts what comes out once for every product that reads it. Here a root
mean square norm gives bfloat16 at once, silu(gate) · up is one loop, and so is the rotation of queries and keys, all
with their gradients; linear layers that read the same are one product (`kat.packing.products`). Modules keep their
names and parameters: only their `forward` is exchanged, and falls back on their own wherever these loops do not serve.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kat.packing.attention_cpu import as_words
from kat.packing.attention_trunks import attend_on_trunks
from kat.packing.layout import AttentionRule
from kat.packing.products import joined
from kat.packing.trunks import TrunkLayout

_PARTS = 16
"""Parts that rows are shared out in where a sum over rows is wanted; more than any processor of a laptop has cores."""
_CLOSE = 0.02
"""Largest difference from a module's own output that is taken for bfloat16's rounding, of the largest number."""


def fuse_for_training(model: torch.nn.Module) -> int:
    """Exchange the forward passes of norms and gated layers that give what these loops give; return how many."""
    count = 0
    for module in reversed(list(model.modules())):  # parts before what is made of them
        fused = next((fused for make in _MAKERS if (fused := make(module)) is not None), None)
        if fused is not None:
            module.forward = fused
            count += 1
    return count


def _serves(x: torch.Tensor) -> bool:
    """Tell whether a pass is one for these loops: bfloat16 by autocast, on a processor."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and x.dim() >= 2


def _fused_norm(norm: Any) -> Any:
    """Return the new forward of a norm; None for what is no root mean square norm, whatever its name."""
    eps = _eps(norm)
    weight = getattr(norm, "weight", None)
    if not type(norm).__name__.endswith("RMSNorm") or not isinstance(eps, float) or weight is None or weight.dim() != 1:
        return None
    plain = norm.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not _serves(x) or x.dtype != torch.float32:
            return plain(x)
        return _Norm.apply(x, None, norm.weight, eps)[1]

    x = _probe(len(weight))
    return forward if _agree(forward, plain, x) else None


def _eps(norm: Any) -> Any:
    return getattr(norm, "eps", getattr(norm, "variance_epsilon", None))


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
        both = _side_by_side(x, [layer.gate_proj, layer.up_proj])
        return _side_by_side(_SwiGLU.apply(both), [layer.down_proj])

    return forward if _agree(forward, plain, _probe(layer.gate_proj.in_features)) else None


def _fused_attention(layer: Any) -> Any:
    """Return the new forward of attention whose queries and keys are rotated by halves, on rows of trunks; None for
    any other: what else is between the products makes it give something else."""
    if {name for name, _ in layer.named_children()} != {"q_proj", "k_proj", "v_proj", "o_proj"}:
        return None
    size, scale = getattr(layer, "head_dim", None), getattr(layer, "scaling", None)
    if not isinstance(size, int) or size % 2 or not isinstance(scale, float):
        return None
    if getattr(getattr(layer, "config", None), "sliding_window", None):
        return None  # which of its layers have the window is not said in one way
    plain = layer.forward

    def forward(hidden_states: torch.Tensor, position_embeddings: Any = None, *given: Any, **more: Any) -> Any:
        layout = more.get("layout")
        if not _serves(hidden_states) or not isinstance(layout, TrunkLayout) or position_embeddings is None:
            return plain(hidden_states, position_embeddings, *given, **more)
        cos, sin = (x[0].float().contiguous() for x in position_embeddings)
        qkv = _side_by_side(hidden_states, [layer.q_proj, layer.k_proj, layer.v_proj])[0]
        q, k, v = _Rotate.apply(qkv, cos, sin, layer.k_proj.out_features // size)
        rule = AttentionRule(scale, causal=True, window=None)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        read = attend_on_trunks(q, k, v, layout, rule)
        return _side_by_side(read.flatten(-2), [layer.o_proj]), None

    return forward if _read_alike(forward, plain, layer) else None


def _fused_block(block: Any) -> Any:
    """Return the new forward of a block x + attention(norm(x)), then x + layer(norm(x)); None for any other."""
    names = ("input_layernorm", "post_attention_layernorm")
    if {name for name, _ in block.named_children()} != {"self_attn", "mlp", *names}:
        return None
    norms: list[Any] = [getattr(block, name) for name in names]
    if any("forward" not in part.__dict__ for part in (*norms, block.self_attn)):
        return None  # they are of another kind
    plain = block.forward

    def forward(hidden_states: torch.Tensor, *given: Any, **more: Any) -> Any:
        x = hidden_states
        if given or not _serves(x) or x.dtype != torch.float32 or not isinstance(more.get("layout"), TrunkLayout):
            return plain(x, *given, **more)
        if any(map(_has_hooks, norms)):
            return plain(x, *given, **more)
        x, normed = _Norm.apply(x, None, norms[0].weight, _eps(norms[0]))
        read, _ = block.self_attn(hidden_states=normed, **more)
        x, normed = _Norm.apply(x, read, norms[1].weight, _eps(norms[1]))
        return _Add.apply(x, block.mlp(normed))

    # What the block adds is compared: beside x, a factor of it (Granite's) would not be seen where weights are small.
    return forward if _read_alike(_change_by(forward), _change_by(plain), block.self_attn) else None


def _change_by(forward: Any) -> Any:
    return lambda x, **more: _first(forward(x, **more)) - x


_MAKERS = (_fused_norm, _fused_gate, _fused_attention, _fused_block)


def _side_by_side(x: torch.Tensor, layers: list[Any]) -> torch.Tensor:
    """Return what layers give for x in bfloat16, side by side: as one product if they are linear and nothing else."""
    if all(type(one) is torch.nn.Linear and not _has_hooks(one) and "forward" not in one.__dict__ for one in layers):
        return joined(x, layers)
    given = [layer(x).to(torch.bfloat16) for layer in layers]
    return given[0] if len(given) == 1 else torch.cat(given, -1)


def _has_hooks(module: torch.nn.Module) -> bool:
    """Tell whether somebody watches a module's calls, which then have to be made."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _read_alike(forward: Any, plain: Any, attention: Any) -> bool:
    """Tell whether two passes give the same for a trunk with two branches, under any rotation."""
    width, size = attention.q_proj.in_features, attention.head_dim
    row = TrunkLayout(np.asarray([3, 2, 4]), np.asarray([-1, 0, 0]))
    angles = torch.linspace(0, 40, row.total * size).view(1, row.total, size)
    given = {"position_embeddings": (angles.cos(), angles.sin()), "attention_mask": None, "layout": row}
    x = _probe(width).repeat(3, 1)[: row.total][None]
    return _agree(lambda y: _first(forward(y, **given)), lambda y: _first(plain(y, **given)), x)


def _first(given: Any) -> Any:
    return given[0] if isinstance(given, tuple) else given


def _probe(width: int) -> torch.Tensor:
    return (torch.linspace(-3, 5, 4 * width).sin() + 0.5).view(4, width)


def _agree(forward: Any, plain: Any, x: torch.Tensor) -> bool:
    """Tell whether two passes give the same in bfloat16; one that does not take a tensor does not."""
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            first, second = forward(x).float(), plain(x).float()
    except (TypeError, RuntimeError):
        return False
    largest = second.abs().max()
    return first.shape == second.shape and bool(largest > 0) and bool((first - second).abs().max() <= _CLOSE * largest)


class _Norm(torch.autograd.Function):
    """x [..., D] float32 and a change of it in bfloat16, or None → x + change, and its norm in bfloat16,
    y / √(mean y² + eps) · weight. What follows reads the sum from here, so that its gradients meet in one pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: torch.Tensor | None, weight: torch.Tensor, eps: float) -> Any:
        rows = x.detach().contiguous().view(-1, x.shape[-1])
        out, inverse = torch.empty(rows.shape, dtype=torch.bfloat16), torch.empty(len(rows))
        total = rows if change is None else torch.empty_like(rows)
        added = out[:0] if change is None else change.detach().contiguous().view(rows.shape)
        arrays = {"total": total.numpy(), "out": as_words(out), "inverse": inverse.numpy()}
        _kernels().rms_norm(rows.numpy(), as_words(added), weight.detach().float().numpy(), np.float32(eps), **arrays)
        ctx.save_for_backward(total, weight, inverse)
        ctx.adds = change is not None
        ctx.set_materialize_grads(False)
        return (x.view_as(x) if change is None else total.view(x.shape)), out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, onto: Any, grad: Any) -> tuple[torch.Tensor | None, ...]:
        rows, weight, inverse = ctx.saved_tensors
        shape = (onto if grad is None else grad).shape
        onto = rows[:0] if onto is None else onto.contiguous().view(rows.shape)
        grad = torch.zeros_like(onto) if grad is None else grad
        grad = grad.to(torch.bfloat16).contiguous().view(rows.shape)
        of_x, parts = torch.empty_like(rows), torch.empty(_PARTS, rows.shape[1])
        of_change = torch.empty_like(grad) if ctx.adds else grad[:0]
        _kernels().rms_norm_gradients(
            rows.numpy(),
            weight.detach().float().numpy(),
            inverse.numpy(),
            grad=as_words(grad),
            onto=onto.numpy(),
            of_x=of_x.numpy(),
            of_change=as_words(of_change),
            of_weight=parts.numpy(),
        )
        of_weight = parts.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return of_x.view(shape), of_change.view(shape) if ctx.adds else None, of_weight, None


class _Add(torch.autograd.Function):
    """x [..., D] float32 and a change of it in bfloat16 → x + change in float32: 0.2 ms for 1,101 × 576 numbers, where
    torch's own sum of two kinds takes 1.7."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        rows = x.detach().contiguous().view(-1, x.shape[-1])
        out = torch.empty_like(rows)
        _kernels().add_rows(rows.numpy(), _rows(change.contiguous()), out.numpy())
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return grad, grad.to(torch.bfloat16)


class _Rotate(torch.autograd.Function):
    """Rows [T, (H + 2 H') D] bfloat16 → queries [T, H, D], keys and values [T, H', D], the first two rotated by halves:
    x · cos + (−second half, first half) · sin with cos and sin [T, D] float32."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, shared: int) -> Any:
        qkv = qkv.detach().contiguous()
        size = cos.shape[1]
        heads = qkv.shape[1] // size - 2 * shared
        out = tuple(qkv.new_empty(len(qkv), n, size) for n in (heads, shared, shared))
        _kernels().rotate(as_words(qkv), cos.numpy(), sin.numpy(), *map(as_words, out))
        ctx.save_for_backward(cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        grads = tuple(grad.to(torch.bfloat16).contiguous() for grad in grads)
        of_qkv = grads[0].new_empty(len(cos), sum(grad.shape[1] for grad in grads) * cos.shape[1])
        _kernels().rotate_gradients(*map(as_words, grads), cos.numpy(), sin.numpy(), as_words(of_qkv))
        return of_qkv, None, None, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) · up [..., D] of both side by side [..., 2 D] bfloat16."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(both)
        out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
        _kernels().swiglu(_rows(both), _rows(out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (both,) = ctx.saved_tensors
        grad, of_both = grad.to(both.dtype).contiguous(), torch.empty_like(both)
        _kernels().swiglu_gradients(*map(_rows, (both, grad, of_both)))
        return of_both


def _rows(x: torch.Tensor) -> np.ndarray:
    return as_words(x.detach().view(-1, x.shape[-1]))


def _kernels() -> Any:
    from kat.packing import train_kernels  # numba loads with it: only where it is needed

    return train_kernels
