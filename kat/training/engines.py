"""Another engine in the generator's place: transformers' continuous batching, as an example for any.

An engine needs one method, `generate` (`kat.training.generation.Generator`). If it has `refresh` too, that is called
when the policy has changed. Its tokens train as they are, and the log-probabilities that it tells weigh them: truncated
importance sampling (`--tis_cap`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from kat.errors import InputError
from kat.training.generation import Completion, Sampling
from kat.training.policy import Policy

PAGE = 64
"""Tokens of a block of the engine's cache."""


class ContinuousBatching:
    """Completions by transformers' `generate_batch`, from a copy of the policy's model in `dtype` with paged keys."""

    def __init__(self, policy: Policy, dtype: torch.dtype = torch.bfloat16) -> None:
        self._policy, self._dtype = policy, dtype
        self._model = copy.deepcopy(policy.model)
        for module in self._model.modules():  # the loops of training, which a copy brings along
            module.__dict__.pop("forward", None)
        self._model.set_attn_implementation("sdpa")
        self._model.requires_grad_(False).to(dtype)

    def refresh(self) -> None:
        """Take the policy's weights as they are now."""
        self._model.load_state_dict(self._policy.model.state_dict())

    def generate(
        self, prompts: Sequence[np.ndarray], count: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Return `count` completions of each prompt. Raises InputError if the engine fails."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        config = GenerationConfig(
            max_new_tokens=sampling.most,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or 1.0,
            top_k=sampling.top_k or 0,
            top_p=sampling.top_p,
            eos_token_id=sorted(sampling.ends) or -1,
            pad_token_id=self._model.config.pad_token_id,
        )
        # Left to itself, the engine takes nine tenths of the memory that is free: on a processor, of everybody's.
        longest = max((len(prompt) for prompt in prompts), default=0) + sampling.most
        blocks = max(len(prompts) * count, 1) * -(-longest // PAGE)
        seed = int(np.random.SeedSequence(list(seeds[0])).generate_state(1)[0]) if seeds else 0
        outputs = self._model.generate_batch(
            [prompt.tolist() for prompt in prompts for _ in range(count)],
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                return_logprobs=True, seed=seed, page_size=PAGE, num_blocks=blocks + 1
            ),
        )
        completions = [self._completion(output, sampling) for output in outputs.values()]
        if len(completions) != count * len(prompts):
            raise InputError(f"The engine gave {len(completions)} completions of {count * len(prompts)}.")
        return [completions[i : i + count] for i in range(0, len(completions), count)]

    def _completion(self, output: object, sampling: Sampling) -> Completion:
        tokens = np.asarray(output.generated_tokens, np.int32)  # type: ignore[attr-defined]
        if not len(tokens):
            raise InputError(f"The engine gave no tokens: {getattr(output, 'error', None)}.")
        told = np.asarray(output.logprobs, np.float32)  # type: ignore[attr-defined]
        return Completion(tokens, told if len(told) == len(tokens) else None, int(tokens[-1]) in sampling.ends)
