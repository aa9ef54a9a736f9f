"""How a generator reads tokens: through the model as it is, through a copy in bfloat16, or through its blocks alone.

The choice is made by trying: what is quicker is taken if it gives what the model gives.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from kat.packing.decode import DecodeLayout, KeyValues, PrefillLayout
from kat.packing.decode_blocks import DecodeBlocks, is_of_llamas_kind
from kat.packing.norms import OnePassNorm
from kat.packing.precision import LinearBfloat16, to_bfloat16
from kat.training.policy import Policy

CLOSE = 0.05
"""Largest difference of hidden states that is taken for bfloat16's rounding, of the largest number."""


class Reader(Protocol):
    """What reads prompts and new tokens, without gradients."""

    def hidden(self, ids: np.ndarray, layout: Any) -> torch.Tensor:
        """Return the last hidden states [T, D] of a row of token ids [T]."""

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [T, V] of hidden states [T, D]."""

    def refresh(self) -> None:
        """Take the policy's weights as they are now."""


class ModelReader:
    """The policy itself; if `copied` a copy of it in bfloat16, which follows it."""

    def __init__(self, policy: Policy, *, copied: bool) -> None:
        self._source = policy
        self._policy = bfloat16_copy(policy) if copied else policy

    def hidden(self, ids: np.ndarray, layout: Any) -> torch.Tensor:
        """Return hidden states: see `Reader`."""
        policy = self._policy
        with policy.cast():
            output = policy.base(
                input_ids=torch.from_numpy(ids)[None].to(policy.device),
                position_ids=torch.from_numpy(layout.positions + policy.offset)[None].to(policy.device),
                layout=layout,
                use_cache=False,
            )
        return output.last_hidden_state[0]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits: see `Reader`."""
        return self._policy.logits(states)

    def refresh(self) -> None:
        """Take the policy's weights over into the copy."""
        if self._policy is not self._source:
            take_weights(self._policy.model, self._source.model)


class BlockReader:
    """The policy's blocks laid out for decoding, without what its class has around them."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._blocks = DecodeBlocks(policy.base)
        head = policy.plain_head
        self._head = None if head is None else LinearBfloat16(head.weight, head.bias)

    def hidden(self, ids: np.ndarray, layout: Any) -> torch.Tensor:
        """Return hidden states: see `Reader`."""
        return self._blocks.hidden(ids, layout, self._policy.offset)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits: see `Reader`."""
        return self._policy.logits(states) if self._head is None else self._head(states)

    def refresh(self) -> None:
        """Lay the policy's weights out again."""
        self._blocks.take()
        if self._head is not None and self._policy.plain_head is not None:
            self._head.take(self._policy.plain_head.weight, self._policy.plain_head.bias)


def reader_of(policy: Policy) -> Reader:
    """Return the quickest reader that gives what the policy gives."""
    if not policy.autocast or policy.unshared is not None:
        return ModelReader(policy, copied=False)
    if policy.device.type == "cpu" and is_of_llamas_kind(policy.base):
        with torch.no_grad():
            reader = BlockReader(policy)
            expected = _probe(policy, ModelReader(policy, copied=False))
            if float((_probe(policy, reader) - expected).abs().max()) <= CLOSE * float(expected.abs().max()):
                return reader
    return ModelReader(policy, copied=True)


def _probe(policy: Policy, reader: Reader) -> torch.Tensor:
    """Return the hidden states of two prompts, and of two new tokens of three completions of them."""
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, min(policy.loaded.vocabulary, 1000), n) for n in (9, 4)]
    cache = KeyValues(prompts=2, longest=9, rows=3, most=2)
    read = reader.hidden(np.concatenate(prompts), PrefillLayout(np.asarray([9, 4]), cache, np.asarray([0, 1])))
    states = [read.float()]
    for step in range(2):
        ids = draw.integers(0, min(policy.loaded.vocabulary, 1000), 3)
        layout = DecodeLayout(
            cache,
            places=np.asarray([0, 1, 0]),
            lengths=np.asarray([9, 4, 9]),
            rows=np.asarray([2, 0, 1]),
            said=np.full(3, step),
            previous_ids=ids,
        )
        states.append(reader.hidden(ids, layout).float())
    return torch.cat(states)


def bfloat16_copy(policy: Policy) -> Policy:
    """Return the policy with linear layers in bfloat16, without gradients: to generate by, or to measure from."""
    reader = copy.copy(policy)
    reader.autocast = False
    reader.model = copy.deepcopy(policy.model)
    for module in reader.model.modules():  # the loops of training, which a copy brings along
        module.__dict__.pop("forward", None)
    reader.base = getattr(reader.model, reader.model.base_model_prefix)
    reader.model.requires_grad_(False)
    to_bfloat16(reader.base)
    head = reader.model.get_output_embeddings()
    if type(head) is torch.nn.Linear:
        reader.model.set_output_embeddings(LinearBfloat16(head.weight, head.bias))
    if reader.plain_head is not None:  # log-probabilities are made from its weights as they are, not as laid out
        reader.plain_head = copy.deepcopy(reader.plain_head).requires_grad_(False).to(torch.bfloat16)
    return reader


def take_weights(reader: torch.nn.Module, model: torch.nn.Module) -> None:
    """Take a model's parameters over into its bfloat16 copy."""
    sources = dict(model.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for name, module in reader.named_modules(remove_duplicate=False):
            source = sources.get(name)
            if source is None:  # a norm that was replaced, inside of what replaced it
                continue
            if isinstance(module, LinearBfloat16):
                module.take(source.weight.t() if isinstance(source, Conv1D) else source.weight, source.bias)
            elif isinstance(module, OnePassNorm):
                module.take(getattr(source, "weight", None), getattr(source, "bias", None))
            else:
                own = dict(source.named_parameters(recurse=False))
                for key, parameter in module.named_parameters(recurse=False):
                    parameter.copy_(own[key])
