"""A policy on rows of prompts and completions: each prompt once, each completion a branch, a log-probability a token.

Logits of the vocabulary are made some tokens at a time and made again for the gradients: whole, they would be the
largest tensor of a step by far (SmolLM2: 49,152 numbers a token, 85 times its hidden state).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from kat.models.load import LoadedModel
from kat.packing.fused import fuse_for_training
from kat.packing.layout import pack
from kat.packing.switch import TOLERANCE, position_offset, switch_over
from kat.packing.trunks import Prompt, Row, plant

CHUNK = 512
"""Tokens whose logits are made at a time."""


class Said(NamedTuple):
    """The tokens of completions in a row, one completion after another in the order that they were planted in: the
    tokens [T] of the row that each is predicted from, their ids [T], and the number [T] of each one's completion."""

    sources: np.ndarray
    ids: np.ndarray
    sequence: np.ndarray


class Predicted(NamedTuple):
    """Of each token [T] of completions, float32: its log-probability, with gradients, and the entropy of the
    distribution that it was drawn from; and of each completion the mean [S, D] of its hidden states, these without."""

    log_probs: torch.Tensor
    entropy: torch.Tensor
    means: torch.Tensor


def said(row: Row) -> Said:
    """Return the tokens of all branches of a row of prompts, but for those that begin a sequence: nothing predicts a
    token without a trunk before it."""
    ends = np.concatenate(row.ends)
    starts = row.layout.bounds[np.searchsorted(row.layout.bounds, ends, "right") - 1]
    starts = starts + (row.layout.previous[starts] < 0)
    tokens = [np.arange(start, end + 1) for start, end in zip(starts, ends, strict=True)]
    flat = np.concatenate(tokens)
    sequence = np.repeat(np.arange(len(ends)), [len(t) for t in tokens])
    return Said(row.layout.previous[flat], row.tokens[flat], sequence)


class Policy:
    """A loaded causal model, switched over to rows. `autocast` runs it in bfloat16.

    `offset` is the position of a sequence's first token. `plain_head` is the head if logits are what it gives, without
    a soft cap or scale; `rounds`, whether it is read in bfloat16 by compiled loops. `unshared` is None, or why prompts
    are computed once for each completion: the model reads padded batches then.
    """

    head_name: str | None = None

    def __init__(self, loaded: LoadedModel, *, autocast: bool = False) -> None:
        self.loaded = loaded
        self.model: Any = loaded.model
        self.autocast = autocast
        self.adapters: Any = None
        self.base: Any = getattr(self.model, self.model.base_model_prefix)
        pad = loaded.chat.pad
        self.model.config.get_text_config().pad_token_id = self.model.config.pad_token_id = pad
        self.offset = position_offset(self.base)
        before = self.base.config._attn_implementation
        self.unshared = switch_over(self.base, loaded.limit)
        if self.unshared is None and (why := self._why_unshared()) is not None:
            self.base.set_attn_implementation(before)
            self.unshared = why
        self.plain_head = self._plain_head()
        self.rounds = autocast and self.device.type == "cpu"
        if self.rounds:
            fuse_for_training(self.base)
            embeddings = self.model.get_input_embeddings()
            if self.plain_head is not None and embeddings.weight is self.plain_head.weight:
                # The head's gradient is dense. Its rows of the tokens that were read are added to, in place, and no
                # second gradient of the size of the vocabulary is made and added (SmolLM2: 113 MB).
                embeddings.sparse = True

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.model.device

    def merge(self) -> None:
        """Join adapters to the weights that they adapt, if there are any."""
        if self.adapters is not None:
            self.adapters.merge_and_unload()
            self.adapters = None

    def predict(self, row: Row, temperature: float = 1.0) -> Predicted:
        """Return the log-probabilities of the tokens of a row's completions under softmax(logits / `temperature`)."""
        tokens = said(row)
        states, ids = self._read(row, tokens)
        log_probs, entropy = self._predicted(states, ids, temperature, entropies=True)
        sequence = torch.from_numpy(tokens.sequence).to(self.device)
        return Predicted(log_probs, entropy, _sequence_means(states.detach().float(), sequence))

    def log_probs(self, row: Row, temperature: float = 1.0) -> torch.Tensor:
        """Return the log-probabilities [T] of `predict` alone, float32 with gradients: no entropies are computed."""
        return self._predicted(*self._read(row, said(row)), temperature, entropies=False)[0]

    def _read(self, row: Row, tokens: Said) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states [T, D] that the tokens of completions are predicted from, and their ids [T]."""
        states = self._hidden(row)[torch.from_numpy(tokens.sources).to(self.device)]
        return states, torch.from_numpy(tokens.ids).to(self.device)

    def _hidden(self, row: Row) -> torch.Tensor:
        """Return hidden states [T, D] for the tokens of a row; every branch with its own trunk where none is shared."""
        if self.unshared is None:
            with self.cast():
                output = self.base(
                    input_ids=torch.from_numpy(row.tokens)[None].to(self.device),
                    position_ids=torch.from_numpy(row.layout.positions + self.offset)[None].to(self.device),
                    layout=row.layout,
                    use_cache=False,
                )
            return output.last_hidden_state[0]
        sequences = [row.layout.sequence(int(end)) for end in np.concatenate(row.ends)]
        states = self._separate([row.tokens[tokens] for tokens in sequences])
        # The hidden state of a trunk's token is the same in all its sequences: the first one's is as good as another's.
        flat, first = np.unique(np.concatenate(sequences), return_index=True)
        hidden = states[torch.from_numpy(first).to(self.device)]
        out = hidden.new_zeros(row.layout.total, hidden.shape[1])
        return out.index_copy(0, torch.from_numpy(flat).to(self.device), hidden)

    def _separate(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the hidden states of sequences that share nothing, end to end [T, D], as transformers reads them."""
        longest = max(map(len, sequences))
        ids = np.full((len(sequences), longest), self.model.config.pad_token_id, np.int64)
        mask = np.zeros(ids.shape, np.int64)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)], mask[i, : len(sequence)] = sequence, 1
        given = [torch.from_numpy(x).to(self.device) for x in (ids, mask)]
        with self.cast():
            output = self.base(input_ids=given[0], attention_mask=given[1], use_cache=False)
        return output.last_hidden_state[given[1].bool()]

    def _predicted(
        self, states: torch.Tensor, ids: torch.Tensor, temperature: float, *, entropies: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities [T] of ids [T] after hidden states [T, D], and the entropies, chunk by chunk; the
        entropies may be zeros where they are not asked for."""
        if self.plain_head is not None and self.rounds:
            from kat.packing.head import token_log_probs

            return token_log_probs(states, self.plain_head.weight, self.plain_head.bias, ids, temperature)
        parts = []
        for start in range(0, len(ids), CHUNK):
            part = slice(start, start + CHUNK)
            if torch.is_grad_enabled():
                given = states[part], ids[part], temperature, entropies
                parts.append(checkpoint(self._of_chunk, *given, use_reentrant=False))
            else:
                parts.append(self._of_chunk(states[part], ids[part], temperature, entropies))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _of_chunk(
        self, states: torch.Tensor, ids: torch.Tensor, temperature: float, entropies: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = torch.log_softmax(self.logits(states).float() / temperature, -1)
        with torch.no_grad():
            # Two more passes over all logits where they are wanted.
            entropy = -(log_probs.exp() * log_probs).sum(-1) if entropies else log_probs.new_zeros(len(ids))
        return log_probs.gather(-1, ids[:, None])[:, 0], entropy

    def _plain_head(self) -> torch.nn.Linear | None:
        """Return the head, if logits are what it gives and nothing is done to them: no soft cap, no scale."""
        head = self.model.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            return None
        states = torch.linspace(-9, 7, 4 * head.in_features, device=self.device).sin().view(4, -1) * 3
        states = states.to(head.weight.dtype)
        before, self.autocast = self.autocast, False
        try:
            with torch.no_grad():
                is_plain = torch.allclose(self.logits(states), head(states), rtol=1e-4, atol=1e-4)
        finally:
            self.autocast = before
        return head if is_plain else None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [T, V] of hidden states [T, D], by what the model's class has above its backbone: the head, and
        a soft cap or scale where it has one."""
        with self.cast(), self._base_gives(states):
            return self.model(input_ids=torch.zeros(1, len(states), dtype=torch.long, device=self.device)).logits[0]

    @contextmanager
    def _base_gives(self, states: torch.Tensor) -> Iterator[None]:
        self.base.forward = lambda *_, **__: BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states[None])
        try:
            yield
        finally:
            del self.base.forward

    def cast(self) -> torch.autocast:
        """Return the context that the model runs in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _why_unshared(self) -> str | None:
        """Compare a row with its sequences by themselves; None if they give the same hidden states."""
        draw = np.random.default_rng(0)
        choice = np.arange(min(self.loaded.vocabulary, 1000))
        trunk = draw.choice(choice, 21)
        prompts = [Prompt(trunk, [draw.choice(choice, n) for n in (9, 3, 3)]), Prompt(draw.choice(choice, 4), [trunk])]
        row = plant(prompts)
        before, self.autocast = self.autocast, False
        try:
            with torch.no_grad():
                hidden = self._hidden(row)
                off = size = 0.0
                for end in np.concatenate(row.ends):
                    tokens = row.layout.sequence(int(end))
                    ids, layout = pack([row.tokens[tokens]])
                    alone = self.base(
                        input_ids=torch.from_numpy(ids)[None].to(self.device),
                        position_ids=torch.from_numpy(layout.positions + self.offset)[None].to(self.device),
                        layout=layout,
                        use_cache=False,
                    ).last_hidden_state[0]
                    off = max(off, float((hidden[torch.from_numpy(tokens).to(self.device)] - alone).abs().max()))
                    size = max(size, float(alone.abs().max()))
        # Other people's code, called in a way that it may not foresee: whatever it raises says that it cannot.
        except Exception as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        finally:
            self.autocast = before
        return None if off <= TOLERANCE * size else f"with shared trunks its hidden states differ by {off / size:.1e}"


def _sequence_means(states: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    count = int(sequence[-1]) + 1
    sums = states.new_zeros(count, states.shape[1]).index_add(0, sequence, states)
    return sums / torch.bincount(sequence, minlength=count)[:, None]
