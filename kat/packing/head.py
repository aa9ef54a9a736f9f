"""Log-probabilities of given tokens straight from hidden states, in bfloat16 on a processor, with gradients.

Logits are made CHUNK tokens at a time, turned into what is wanted in one pass over memory, forgotten, and made again
for the gradients, as Liger's fused cross-entropy does (Hsu et al. 2024). torch's own way makes seven arrays of their
size in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kat.packing.attention_cpu import as_words
from kat.packing.products import weight_gradient

CHUNK = 2048
"""Tokens whose logits are made at a time: 200 MB for a vocabulary of 49,152. The gradient of 1,024 states took as long
as that of 2,048."""


def token_log_probs(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log softmax((states Wᵀ + b) / temperature) at `ids` [T], and the entropies [T] without gradients, both
    float32, for states [T, D] and a head W [V, D], b [V]."""
    log_probs, entropy = _LogProbs.apply(states, weight, bias, ids, 1.0 / temperature)
    return log_probs, entropy


class _LogProbs(torch.autograd.Function):
    """As `token_log_probs`, with `inverse` 1 / temperature."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        ids: torch.Tensor,
        inverse: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        half, head = states.detach().to(torch.bfloat16), weight.detach().to(torch.bfloat16)
        log_probs, entropy, totals = (torch.empty(len(ids)) for _ in range(3))
        room = _room(len(ids), head)
        for part in _chunks(len(ids)):
            _kernels().log_probs(
                as_words(_logits(half[part], head, bias, room)),
                np.float32(inverse),
                ids[part].numpy(),
                log_probs=log_probs[part].numpy(),
                entropy=entropy[part].numpy(),
                totals=totals[part].numpy(),
            )
        ctx.save_for_backward(half, head, bias, ids, totals)
        ctx.inverse, ctx.types = inverse, (states.dtype, weight.dtype)
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        half, head, bias, ids, totals = ctx.saved_tensors
        of_states = torch.empty_like(half)
        of_head: torch.Tensor | None = None
        of_bias = torch.zeros(bias.shape) if bias is not None and ctx.needs_input_grad[2] else None
        scale = (grad.float() * ctx.inverse).contiguous()
        room = _room(len(ids), head)
        for part in _chunks(len(ids)):
            logits = _logits(half[part], head, bias, room)
            _kernels().log_prob_gradients(
                as_words(logits), np.float32(ctx.inverse), ids[part].numpy(), totals[part].numpy(), scale[part].numpy()
            )
            torch.mm(logits, head, out=of_states[part])
            if ctx.needs_input_grad[1]:
                of_head = weight_gradient(half[part], logits, of_head)
            if of_bias is not None:
                of_bias += logits.sum(0, dtype=torch.float32)
        of_weight = None if of_head is None else of_head.to(ctx.types[1])
        return of_states.to(ctx.types[0]), of_weight, of_bias, None, None


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _room(count: int, head: torch.Tensor) -> torch.Tensor:
    """Where the logits of one chunk after another are written. New memory costs more than their product: 64 ms for
    1,024 tokens, 28 where the pages are there."""
    return head.new_empty(min(count, CHUNK), len(head))


def _logits(states: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None, room: torch.Tensor) -> torch.Tensor:
    out = room[: len(states)]
    if bias is None:
        return torch.mm(states, head.t(), out=out)
    return torch.addmm(bias.detach().to(head.dtype), states, head.t(), out=out)  # rounded once, not twice


def _kernels() -> Any:
    from kat.packing import head_kernels  # numba loads with it: only where it is needed

    return head_kernels
