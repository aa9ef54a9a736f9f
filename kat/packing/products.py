"""Products of linear layers that train in bfloat16 on a processor, in the forms that oneDNN is quick in.

Layers that read the same input are one product, forward and for the gradient of the input. oneDNN's time for as many
operations differs threefold with the form of a product. Measured with torch 2.13 on 2 cores with AMX, SmolLM2's layers,
1,101 tokens, in units of 10¹² operations a second:

- the gradient of weights, gᵀ x, 0.75 to 1.0 as it stands, 1.9 to 2.3 where the first factor lies in memory as it is
  read: so the smaller of x and g is transposed before (`weight_gradient`);
- a product into 576 columns 1.0 in one, 2.2 by ROWS rows at a time (`times`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kat.packing.attention_cpu import as_words

ROWS = 512
"""Rows of a part of a product into NARROW columns or less."""
NARROW = 1024
WIDE = 2048
"""Columns of a first factor above which those that belong to several layers are taken layer by layer, as torch would:
3,072 at a time 1.0, 1,536 at a time 2.2."""


def joined(x: torch.Tensor, layers: Sequence[torch.nn.Linear]) -> torch.Tensor:
    """Return what linear layers give for x [..., I] in bfloat16, side by side [..., Σ O], with gradients."""
    given = [part for layer in layers for part in (layer.weight, layer.bias)]
    return _Linear.apply(x.to(torch.bfloat16), half_weights(layers), *given)


def half_weights(layers: Sequence[torch.nn.Linear]) -> torch.Tensor:
    """Return the weights of layers below one another, [Σ O, I] in bfloat16: those that passes share now, if any do."""
    return _SHARING[-1].of(layers) if _SHARING else _halved(layers)


def _halved(layers: Sequence[torch.nn.Linear]) -> torch.Tensor:
    sizes = [len(layer.weight) for layer in layers]
    half = layers[0].weight.new_empty(sum(sizes), layers[0].in_features, dtype=torch.bfloat16)
    for part, layer in zip(half.split(sizes), layers, strict=True):
        part.copy_(layer.weight.detach())  # cast and put in its place in one pass
    return half


class SharedWeights:
    """Weights in bfloat16 that are made once for all passes inside of `with`: the rows of a step, or training and the
    generation before it. Who changes the layers' weights says so (`forget`): nothing else tells, for torch's fused
    optimisers leave a parameter's version as it was."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], tuple[list[torch.nn.Linear], torch.Tensor]] = {}

    def __enter__(self) -> None:
        _SHARING.append(self)

    def __exit__(self, *_: object) -> None:
        _SHARING.remove(self)

    def of(self, layers: Sequence[torch.nn.Linear]) -> torch.Tensor:
        """Return what `half_weights` gives."""
        key = tuple(map(id, layers))
        if key not in self._made:
            self._made[key] = list(layers), _halved(layers)  # the layers too: an id is theirs while they live
        return self._made[key][1]

    def forget(self) -> None:
        """Make them again when they are next read."""
        self._made.clear()


_SHARING: list[SharedWeights] = []


def times(x: torch.Tensor, weight: torch.Tensor, sizes: Sequence[int] = ()) -> torch.Tensor:
    """Return x [T, K] times weight [K, N], both bfloat16. Where `sizes` cut K, the parts' products are added."""
    if weight.shape[1] > NARROW:
        return x @ weight
    out = x.new_empty(len(x), weight.shape[1])
    cut = sizes if x.shape[1] > WIDE and len(sizes) > 1 else [x.shape[1]]
    for start in range(0, len(x), ROWS):
        first, *others = zip(x[start : start + ROWS].split(list(cut), 1), weight.split(list(cut)), strict=True)
        part = torch.mm(*first, out=out[start : start + ROWS])
        for factors in others:
            part.addmm_(*factors)
    return out


def weight_gradient(x: torch.Tensor, grad: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """Return gradᵀ x [O, I] in float32 of x [T, I] and grad [T, O] in bfloat16; added to `into` if there is one."""
    out = torch.empty(grad.shape[1], x.shape[1]) if into is None else into
    wide = grad.shape[1] > x.shape[1]
    product = _transposed(x) @ grad if wide else _transposed(grad) @ x
    if wide and product.shape[1] % 4 == 0:
        from kat.packing import train_kernels  # numba loads with it: only where it is needed

        train_kernels.widen_transposed(_in_fours(product), into is not None, out.numpy())
        return out
    product = product.t() if wide else product
    return out.copy_(product) if into is None else out.add_(product)


def _transposed(x: torch.Tensor) -> torch.Tensor:
    """Return xᵀ [I, T] of x [T, I] bfloat16, as rows in memory."""
    x = x.contiguous()
    if x.shape[1] % 4 or x.data_ptr() % 8:
        return x.t().contiguous()
    from kat.packing import train_kernels

    full = len(x) // 4 * 4
    out = x.new_empty(x.shape[1], -(-len(x) // 4) * 4)
    train_kernels.transposed(_in_fours(x[:full]), _in_fours(out)[:, : full // 4])
    # A product may read on past the end of a row, times 0: what it finds there must be a number.
    out[:, full:] = 0
    out[:, full : len(x)] = x[full:].t()
    return out[:, : len(x)]


def _in_fours(x: torch.Tensor) -> np.ndarray:
    """Return the memory of rows of bfloat16, of a multiple of four each, as words of four."""
    return as_words(x).view(np.uint64)


class _Linear(torch.autograd.Function):
    """x [..., I] bfloat16 → [..., Σ O] bfloat16 by `half`, weights [O, I] and biases [O] or None in turns."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, half: torch.Tensor, *given: torch.Tensor | None) -> torch.Tensor:
        weights, biases = [w for w in given[::2] if w is not None], given[1::2]
        rows = x.detach().reshape(-1, x.shape[-1])
        out = times(rows, half.t())
        for part, bias in zip(out.split([len(w) for w in weights], 1), biases, strict=True):
            if bias is not None:
                part.add_(bias.detach())
        ctx.save_for_backward(rows, half)
        ctx.shape, ctx.sizes = x.shape, [len(w) for w in weights]
        ctx.types = [None if g is None else g.dtype for g in given]
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, half = ctx.saved_tensors
        grad = grad.to(torch.bfloat16).reshape(len(rows), -1)
        of_x = times(grad, half, ctx.sizes).view(ctx.shape) if ctx.needs_input_grad[0] else None
        needs = ctx.needs_input_grad[2:]
        of_given: list[torch.Tensor | None] = [None] * len(ctx.types)
        if any(needs[::2]):
            parts = weight_gradient(rows, grad).split(ctx.sizes)
            of_given[::2] = [p.to(t) if n else None for p, t, n in zip(parts, ctx.types[::2], needs[::2], strict=True)]
        for place, part in enumerate(grad.split(ctx.sizes, 1)):
            if needs[1 + 2 * place]:
                of_given[1 + 2 * place] = part.sum(0, dtype=torch.float32).to(ctx.types[1 + 2 * place])
        return of_x, None, *of_given
