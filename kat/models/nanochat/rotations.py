"""cos and sin of rotations in bfloat16, as nanochat keeps them where it trains.

nanochat has kept them in bfloat16 on every device; since 2026-03-04 in the number format that it computes in, which is
bfloat16 on GPUs of today and float32 on processors. Models are trained on GPUs, so bfloat16 is what their weights know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROUNDED = "bfloat16"
"""What `kat_rope_rounding` of a converted model's config says."""


def round_rotations(model: torch.nn.Module) -> None:
    """Round cos and sin of a converted model to bfloat16, in every number format; others are left alone."""
    import torch

    if getattr(model.config, "kat_rope_rounding", None) != ROUNDED:
        return

    def rounded(module: torch.nn.Module, args: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(x.to(torch.bfloat16).to(x.dtype) for x in output)

    for module in model.modules():
        if type(module).__name__ == "NanoChatRotaryEmbedding" and not getattr(module, "kat_rounds", False):
            module.register_forward_hook(rounded)
            module.kat_rounds = True
