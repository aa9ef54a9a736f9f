"""Norms in one pass on a processor: a residual's sum, the norm, and the bfloat16 that the next product wants.

torch makes a tensor of each, and memory is what they take time for: MiniLM, 4,096 tokens, 6.4 ms against 0.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kat.packing.attention_cpu import as_words

if TYPE_CHECKING:
    import torch

_TWIN = "_kat_bfloat16"
_NAMES = ("LayerNorm", "RMSNorm")


def low(x: torch.Tensor) -> torch.Tensor:
    """x in bfloat16, converted once however many layers read it.

    The result is kept with the tensor, and with the number of changes that torch has counted of it; in inference mode
    torch counts none, and nothing is kept.
    """
    import torch

    if x.dtype == torch.bfloat16:
        return x
    twin, version = getattr(x, _TWIN, (None, None))
    if twin is None or version != x._version:
        twin = x.to(torch.bfloat16)
        _keep(x, twin)
    return twin


def _keep(x: torch.Tensor, twin: torch.Tensor) -> None:
    if not x.is_inference() and not x.requires_grad:
        setattr(x, _TWIN, (twin, x._version))


def in_one_pass(stack: torch.nn.Module) -> None:
    """Replace the norms below a module, and the layers of BERT's kind that end in norm(dense(x) + residual), in place.

    A norm is known by its name and believed only if it gives what the compiled loop gives.
    """
    import torch

    norm, ending = _classes()
    for parent in list(stack.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith(_NAMES) and (made := norm.of(child)) is not None:
                setattr(parent, name, made)
    for parent in list(stack.modules()):
        for name, child in list(parent.named_children()):
            parts = {part: type(module) for part, module in child.named_children()}
            like = set(parts) == {"dense", "LayerNorm", "dropout"} and parts["dropout"] is torch.nn.Dropout
            if like and parts["LayerNorm"] is norm and type(child).__name__.endswith("Output"):
                setattr(parent, name, ending(child))


def _classes() -> tuple[type[torch.nn.Module], type[torch.nn.Module]]:
    """The classes, made where torch is at hand."""
    import torch

    class Norm(torch.nn.Module):
        """A layer norm (`centred`) or a root mean square norm over the last axis; `plain` is the module it replaces."""

        def __init__(self, plain: torch.nn.Module, weight, bias, eps: float, centred: bool):
            super().__init__()
            self.plain = plain
            self._weight, self._bias = (None if p is None else p.detach().float().contiguous() for p in (weight, bias))
            self._eps, self._centred = np.float32(eps), centred

        @classmethod
        def of(cls, plain: torch.nn.Module) -> Norm | None:
            weight, bias = getattr(plain, "weight", None), getattr(plain, "bias", None)
            eps = getattr(plain, "eps", getattr(plain, "variance_epsilon", None))
            if not isinstance(eps, float) or any(p is not None and p.dim() != 1 for p in (weight, bias)):
                return None
            made = cls(plain, weight, bias, eps, not type(plain).__name__.endswith("RMSNorm"))
            width = getattr(plain, "normalized_shape", (64,))[-1] if weight is None else len(weight)
            x = torch.linspace(-3, 5, 3 * width).sin().view(3, width) + 0.5
            try:
                with torch.no_grad():
                    same = torch.allclose(made(x), plain(x), rtol=1e-4, atol=1e-5)
            except (TypeError, RuntimeError):  # a norm that wants something else than one tensor
                return None
            return made if same else None

        def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
            """The norm of x, or of x + other with x in float32 and other in bfloat16."""
            if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
                return self.plain(x if other is None else other + x)
            from kat.packing import kernels

            rows = x.contiguous().view(-1, x.shape[-1])
            found, twin = torch.empty_like(rows), torch.empty_like(rows, dtype=torch.bfloat16)
            ends = (*self._scales(rows.shape[1]), self._eps, self._centred, found.numpy(), as_words(twin))
            if other is None:
                kernels.norm(rows.numpy(), *ends)
            else:
                kernels.norm_of_sum(rows.numpy(), as_words(other.contiguous().view(rows.shape)), *ends)
            found = found.view(x.shape)
            _keep(found, twin.view(x.shape))
            return found

        def _scales(self, width: int) -> tuple[np.ndarray, np.ndarray]:
            weight = np.ones(width, np.float32) if self._weight is None else self._weight.numpy()
            return weight, np.zeros(width, np.float32) if self._bias is None else self._bias.numpy()

    class Ending(torch.nn.Module):
        """norm(dense(x) + residual)."""

        def __init__(self, plain: torch.nn.Module):
            super().__init__()
            self.dense, self.norm, self.dropout = plain.dense, plain.LayerNorm, plain.dropout

        def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
            made = self.dropout(self.dense(hidden_states))
            if made.dtype == torch.bfloat16 and made.shape == input_tensor.shape:
                return self.norm(input_tensor, made)
            return self.norm(made + input_tensor)

    return Norm, Ending
