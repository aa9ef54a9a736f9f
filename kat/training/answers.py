"""What a policy answers to fixed prompts, and how far it is from another there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from kat.packing.trunks import Prompt, plant
from kat.training.grpo_losses import kl_estimate
from kat.training.policy import Policy
from kat.training.policy import said as said_in
from kat.training.rewarders import rows_in_order

if TYPE_CHECKING:
    from kat.training.generation import Completion


def text_of(policy: Policy, completion: Completion) -> str:
    """Return what a completion says, without its end."""
    tokens = completion.tokens[:-1] if completion.ended else completion.tokens
    tokenizer = policy.loaded.tokenizer
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def divergence(
    policy: Policy,
    reference: Policy,
    trunks: Sequence[np.ndarray],
    said: Sequence[Completion],
    *,
    temperature: float,
    budget: int,
    kind: Literal["k1", "k3"] = "k3",
) -> np.ndarray:
    """Return KL(π ‖ reference) a token, estimated from completions that π drew at a temperature: the mean [N] of each
    one's tokens, `budget` tokens at a time."""
    kls = np.zeros(len(said))
    with torch.no_grad():
        prompts = [Prompt(t, [one.tokens]) for t, one in zip(trunks, said, strict=True)]
        for places in rows_in_order([p.tokens for p in prompts], budget):
            row = plant([prompts[place] for place in places])
            now, then = (model.log_probs(row, temperature) for model in (policy, reference))
            sequence = said_in(row).sequence
            sums = np.bincount(sequence, kl_estimate(now, then, kind).double().cpu().numpy())
            kls[places] = sums / np.bincount(sequence)
    return kls
