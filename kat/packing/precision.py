"""Linear layers in bfloat16, everything else in float32: residuals, norms, positions and embeddings keep their digits.

Weights are converted once, where autocast converts them in every call, and laid out for oneDNN's products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kat.packing.norms import in_one_pass, low

if TYPE_CHECKING:
    import torch

_ROWS = 4096
"""Rows of a product that the weights' layout is chosen for; it serves any number."""


def to_bfloat16(model: torch.nn.Module) -> torch.nn.Module:
    """Replace the linear layers of the model's stacks, in place; their float32 weights are freed.

    A layer's output is bfloat16 and a residual float32, so that their sum is float32 by torch's own promotion. What
    stands outside the stacks (a projection of the embeddings, a pooler) would begin a residual in bfloat16, and stays.
    """
    import torch
    from transformers.activations import GELUActivation
    from transformers.pytorch_utils import Conv1D

    kind = _linear_class()
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    for parent in {id(m): m for stack in stacks for m in stack.modules()}.values():
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, kind(child.weight.detach(), child.bias))
            elif type(child) is Conv1D:  # GPT-2's: its weight is transposed
                setattr(parent, name, kind(child.weight.detach().t(), child.bias))
            elif (isinstance(child, torch.nn.GELU) and child.approximate == "none") or type(child) is GELUActivation:
                setattr(parent, name, _gelu_class()())
    for stack in stacks:
        in_one_pass(stack)
    return model


def _gelu_class() -> type[torch.nn.Module]:
    import torch

    class GeluBfloat16(torch.nn.Module):
        """x·Φ(x), by a compiled loop for bfloat16 on a processor: twice as quick as torch's."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.is_grad_enabled():
                return torch.nn.functional.gelu(x)
            from kat.packing.kernels import gelu

            x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
            gelu(x.view(torch.uint16).numpy().ravel(), out.view(torch.uint16).numpy().ravel())
            return out

    return GeluBfloat16


def _linear_class() -> type[torch.nn.Module]:
    """The class, made where torch is at hand."""
    import torch

    ready = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

    class LinearBfloat16(torch.nn.Module):
        """y = x Wᵀ + b with W [O, I] and x [..., I] in bfloat16, sums in float32, y [..., O] in bfloat16."""

        def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
            super().__init__()
            self.out_features, self.in_features = weight.shape
            self.weight = torch.nn.Parameter(weight.to(torch.bfloat16).contiguous(), requires_grad=False)
            self.bias = None if bias is None else torch.nn.Parameter(bias.detach().to(torch.bfloat16), False)
            self.laid_out = ready and weight.device.type == "cpu"
            if self.laid_out:
                laid = torch.ops.mkldnn._reorder_linear_weight(self.weight.data, _ROWS)
                self.weight = torch.nn.Parameter(laid, requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = low(x)
            if self.laid_out:
                return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return torch.nn.functional.linear(x, self.weight, self.bias)

    return LinearBfloat16
