"""Linear layers in bfloat16, everything else in float32: residuals, norms, positions and embeddings keep their digits.

It pays where the machine multiplies bfloat16 itself, at twice the rate of float32 or more (AVX512-BF16, AMX, GPUs); on
other processors float32 is quicker, and the engine's `auto` stays with it. Weights are converted once, where autocast
converts them in every call, and laid out for oneDNN's products.

Autocast remains the way for models that cannot be converted: it casts at each operation, so that a model whose own
code mixes formats ("expected scalar type Float but found BFloat16"), or that is read unpacked, runs too. The engine
converts, compares the hidden states of a probe, and reads the model again for autocast if they stray.

This module loads torch and transformers: import it inside functions.
"""

from __future__ import annotations

import torch
from transformers.activations import GELUActivation
from transformers.pytorch_utils import Conv1D

from kat.packing.norms import bf16_copy, fuse_norms

_ROWS = 4096
"""Rows of a product that the weights' layout is chosen for; it serves any number."""
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether torch offers oneDNN's product with weights that are laid out before."""


class GeluBfloat16(torch.nn.Module):
    """x·Φ(x), by a compiled loop for bfloat16 on a processor: twice as quick as torch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same shape and type; torch's own function where the loop does not serve."""
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.is_grad_enabled():
            return torch.nn.functional.gelu(x)
        from kat.packing.kernels import gelu  # numba loads with it: only where it is needed

        x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
        gelu(x.view(torch.uint16).numpy().ravel(), out.view(torch.uint16).numpy().ravel())
        return out


class LinearBfloat16(torch.nn.Module):
    """y = x Wᵀ + b with W [O, I] and x [..., I] in bfloat16, sums in float32, y [..., O] in bfloat16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.laid_out = _ONEDNN and weight.device.type == "cpu"
        self.take(weight, bias)

    def take(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take over weights [O, I] and biases, in any precision."""
        half = weight.detach().to(torch.bfloat16).contiguous()
        if self.laid_out:
            half = torch.ops.mkldnn._reorder_linear_weight(half, _ROWS)
        self.weight = torch.nn.Parameter(half, requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().to(torch.bfloat16), False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y; x in float32 is converted once for all layers that read it (`bf16_copy`)."""
        x = bf16_copy(x)
        if self.laid_out:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, attr="none", scalars=[], algorithm="")
        return torch.nn.functional.linear(x, self.weight, self.bias)


def to_bfloat16(model: torch.nn.Module) -> torch.nn.Module:
    """Replace the linear layers, GELUs and norms of the model's stacks, in place, and return the model.

    The layers' float32 weights are freed. A layer's output is bfloat16 and a residual float32, so that their sum is
    float32 by torch's own promotion. What stands outside the stacks (a projection of the embeddings, a pooler) would
    begin a residual in bfloat16, and stays.
    """
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    for parent in {id(m): m for stack in stacks for m in stack.modules()}.values():
        for name, child in list(parent.named_children()):
            if (replacement := _in_bfloat16(child)) is not None:
                setattr(parent, name, replacement)
    for stack in stacks:
        fuse_norms(stack)
    return model


def _in_bfloat16(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return what replaces a layer; None for one that stays. Subclasses stay: they may do anything."""
    if type(module) is torch.nn.Linear:
        return LinearBfloat16(module.weight.detach(), module.bias)
    if type(module) is Conv1D:  # GPT-2's: its weight is transposed
        return LinearBfloat16(module.weight.detach().t(), module.bias)
    exact = isinstance(module, torch.nn.GELU) and module.approximate == "none"
    return GeluBfloat16() if exact or type(module) is GELUActivation else None
