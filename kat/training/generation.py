"""Completions drawn from a policy: each prompt read once for all of them, finished ones replaced by waiting ones.

One decoding step reads one new token of up to `rows` completions. Their keys and values are in `kat.packing.decode`;
the weights are read from memory once a step for all of them, which is what a step's time goes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from kat.packing.decode import DecodeLayout, KeyValues, PrefillLayout
from kat.packing.layout import pack
from kat.training.policy import Policy
from kat.training.readers import Reader, reader_of

ROWS = 64
"""Completions that grow together."""


class Completion(NamedTuple):
    """Token ids [L] int32 with the end token where it `ended`, and their log-probabilities [L] float32 as they were
    drawn; None from an engine that does not tell."""

    tokens: np.ndarray
    log_probs: np.ndarray | None
    ended: bool


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: softmax(logits / `temperature`), the most likely one at 0.

    With `top_k` or `top_p` of less than all tokens, the trainer's log-probabilities are of another distribution than
    the one that was drawn from. `most` is the tokens of a completion at most, `ends` what ends one.
    """

    most: int
    ends: frozenset[int]
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0


class Generator(Protocol):
    """What draws completions; any engine can be one."""

    def generate(
        self, prompts: Sequence[np.ndarray], count: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Return `count` completions of each prompt's token ids; `seeds` has a list of numbers for each prompt."""


class PolicyGenerator:
    """Completions by the policy itself, in bfloat16 by a copy of its weights where it trains so; call `refresh` when it
    has changed. A completion depends on its prompt, seed and number alone, not on what is drawn beside it, but for
    rounding."""

    def __init__(self, policy: Policy, rows: int = ROWS) -> None:
        self.policy, self.rows = policy, rows
        self._reader = reader_of(policy)

    def refresh(self) -> None:
        """Take the policy's weights as they are now."""
        self._reader.refresh()

    def generate(
        self, prompts: Sequence[np.ndarray], count: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Return `count` completions of each prompt: see `Generator`."""
        with torch.no_grad():
            if self.policy.unshared is not None:
                return [
                    [_uncached(self.policy, p, sampling, _uniforms(seed, g, sampling.most)) for g in range(count)]
                    for p, seed in zip(prompts, seeds, strict=True)
                ]
            rows = min(self.rows, count * len(prompts))
            return _Run(self._reader, prompts, count, sampling, seeds=seeds, rows=rows).run()


def _uniforms(seed: Sequence[int], number: int, most: int) -> np.ndarray:
    return np.random.default_rng([*seed, number]).random(most)


class _Run:
    """The completions of one call: those that wait, those that grow, and those that are done."""

    def __init__(
        self,
        reader: Reader,
        prompts: Sequence[np.ndarray],
        count: int,
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
        rows: int,
    ) -> None:
        self.reader, self.prompts, self.count, self.sampling = reader, prompts, count, sampling
        self.seeds = seeds
        longest = max(map(len, prompts))
        self.cache = KeyValues(min(len(prompts), rows), longest, rows, sampling.most)
        self.waiting = [(p, g) for p in range(len(prompts)) for g in range(count)][::-1]
        self.done: list[list[Completion | None]] = [[None] * count for _ in prompts]
        self.place = np.full(len(prompts), -1)  # where a prompt's keys lie
        self.unfinished = np.full(len(prompts), count)
        self.free_places = list(range(self.cache.prompts))[::-1]
        self.first_logits: dict[int, torch.Tensor] = {}
        # Of each row: the prompt and number of its completion (−1: none), its tokens, how many, their log-probs.
        self.prompt, self.number = np.full(rows, -1), np.zeros(rows, np.int64)
        self.said = np.zeros(rows, np.int64)
        self.tokens = np.zeros((rows, sampling.most), np.int64)
        self.log_probs = np.zeros((rows, sampling.most), np.float32)
        self.uniforms = np.zeros((rows, sampling.most))
        self.lengths = np.asarray([len(p) for p in prompts], np.int64)

    def run(self) -> list[list[Completion]]:
        """Draw all completions."""
        self._fill()
        while (active := np.flatnonzero(self.prompt >= 0)).size:
            self._step(active)
            if self.waiting and (self.prompt < 0).any():
                self._fill()
        return [[one for one in row if one is not None] for row in self.done]

    def _fill(self) -> None:
        """Let waiting completions into rows that are free, until none is, or none waits."""
        while self.waiting and (free := np.flatnonzero(self.prompt < 0)).size:
            coming = []
            for row in free.tolist():
                if not self.waiting:
                    break
                p, g = self.waiting[-1]
                if self.place[p] < 0:
                    if not self.free_places:
                        break
                    self.place[p] = self.free_places.pop()
                self.waiting.pop()
                self.prompt[row], self.number[row], self.said[row] = p, g, 0
                self.uniforms[row] = _uniforms(self.seeds[p], g, self.sampling.most)
                coming.append(row)
            if not coming:
                return
            self._prefill(sorted({int(self.prompt[row]) for row in coming} - self.first_logits.keys()))
            rows = np.asarray(coming)
            self._draw(rows, torch.stack([self.first_logits[p] for p in self.prompt[rows].tolist()]))

    def _prefill(self, numbers: list[int]) -> None:
        """Read prompts; keep their keys, and the logits of what comes first."""
        budget = 4096
        while numbers:
            taken: list[int] = []
            held = 0
            while numbers and (not taken or held + len(self.prompts[numbers[0]]) <= budget):
                held += len(self.prompts[numbers[0]])
                taken.append(numbers.pop(0))
            ids, layout = pack([self.prompts[p] for p in taken])
            layout = PrefillLayout(layout.lengths, self.cache, self.place[taken])
            hidden = self.reader.hidden(ids, layout)
            logits = self.reader.logits(hidden[torch.from_numpy(layout.bounds[1:] - 1).to(hidden.device)])
            self.first_logits.update(zip(taken, logits, strict=True))

    def _step(self, rows: np.ndarray) -> None:
        """Read the last token of these rows, and draw the next."""
        prompts, said = self.prompt[rows], self.said[rows]
        last = self.tokens[rows, said - 1]
        before = self.tokens[rows, np.maximum(said - 2, 0)]
        ends_of_prompts = np.asarray([self.prompts[p][-1] for p in prompts.tolist()], np.int64)
        layout = DecodeLayout(
            self.cache,
            places=self.place[prompts],
            lengths=self.lengths[prompts],
            rows=rows,
            said=said - 1,
            previous_ids=np.where(said > 1, before, ends_of_prompts),
        )
        self._draw(rows, self.reader.logits(self.reader.hidden(last, layout)))

    def _draw(self, rows: np.ndarray, logits: torch.Tensor) -> None:
        """Draw a token of each row, and put away the completions that this ends."""
        said = self.said[rows]
        tokens, log_probs = draw_tokens(logits, self.uniforms[rows, said], self.sampling)
        self.tokens[rows, said], self.log_probs[rows, said] = tokens, log_probs
        self.said[rows] += 1
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            ended, length = token in self.sampling.ends, int(self.said[row])
            if ended or length == self.sampling.most:
                p, g = int(self.prompt[row]), int(self.number[row])
                kept = self.tokens[row, :length].astype(np.int32), self.log_probs[row, :length].copy()
                self.done[p][g] = Completion(*kept, ended)
                self.prompt[row] = -1
                self.unfinished[p] -= 1
                if not self.unfinished[p]:
                    self.free_places.append(int(self.place[p]))
                    del self.first_logits[p]


def draw_tokens(logits: torch.Tensor, uniforms: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Return a token [R] of each row of logits [R, V], at the place of `uniforms` [R] in the cumulated probabilities,
    and its log-probability under softmax(logits / temperature), before top_k and top_p.

    Raises FloatingPointError for logits that are not numbers.
    """
    if sampling.temperature == 0:
        logits = logits.float()
        tokens = logits.argmax(-1)
        return _checked(tokens.cpu().numpy(), torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0])
    all_tokens = sampling.top_p >= 1 and (sampling.top_k is None or sampling.top_k >= logits.shape[1])
    if all_tokens and logits.dtype == torch.bfloat16 and logits.device.type == "cpu":
        from kat.packing import decode_kernels  # numba loads with it: only where it is needed

        drawn, probs = np.empty(len(logits), np.int64), np.empty(len(logits), np.float32)
        words = logits.contiguous().view(torch.uint16).numpy()
        decode_kernels.draw(words, np.float32(1 / sampling.temperature), uniforms, drawn, probs)
        return _checked(drawn, torch.from_numpy(probs))
    log_probs = torch.log_softmax(logits.float() / sampling.temperature, -1)
    probabilities = log_probs.double().exp()
    if not all_tokens:
        probabilities = _most_likely(probabilities, sampling)
    cumulated = probabilities.cumsum(-1)
    at = torch.from_numpy(uniforms).to(cumulated.device)[:, None] * cumulated[:, -1:]
    # Right of the place, so that a token without probability is never the one.
    tokens = torch.searchsorted(cumulated, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return _checked(tokens.cpu().numpy(), log_probs.gather(-1, tokens[:, None])[:, 0])


def _most_likely(probabilities: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return probabilities [R, V] with those beyond the `top_k` likeliest, and beyond the fewest whose sum reaches
    `top_p`, at 0."""
    ordered, place = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = before < sampling.top_p
    if sampling.top_k is not None:
        kept &= torch.arange(ordered.shape[1], device=ordered.device) < sampling.top_k
    return torch.zeros_like(ordered).scatter(-1, place, ordered * kept)


def _checked(tokens: np.ndarray, log_probs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    probs = log_probs.float().cpu().numpy()
    if (tokens < 0).any() or not np.isfinite(probs).all():
        raise FloatingPointError("the policy's logits are not finite numbers")
    return tokens, probs


def _uncached(policy: Policy, prompt: np.ndarray, sampling: Sampling, uniforms: np.ndarray) -> Completion:
    """Return one completion, all tokens read again for each new one: for models whose keys cannot be kept here."""
    tokens: list[int] = []
    probs: list[float] = []
    while len(tokens) < sampling.most and not (tokens and tokens[-1] in sampling.ends):
        ids = torch.from_numpy(np.asarray([*prompt, *tokens], np.int64))[None].to(policy.device)
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, -1:]
        token, prob = draw_tokens(logits, uniforms[len(tokens) : len(tokens) + 1], sampling)
        tokens.append(int(token[0]))
        probs.append(float(prob[0]))
    return Completion(np.asarray(tokens, np.int32), np.asarray(probs, np.float32), tokens[-1] in sampling.ends)
