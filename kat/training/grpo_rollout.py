"""The first half of a step of GRPO: prompts are drawn, answered and rewarded, on every rank its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kat.grpo_config import GrpoOptions
from kat.training.answers import text_of
from kat.training.generation import Completion, Generator, Sampling
from kat.training.grpo_metrics import BinCounts
from kat.training.loop import NotFiniteError
from kat.training.policy import Policy
from kat.training.prompt_sampler import Asked, PromptSampler
from kat.training.ranks import Ranks
from kat.training.reward_sources import RewardSum


@dataclass(frozen=True, eq=False)
class Group:
    """A prompt that was drawn, its completions, and what these are worth: rewards and advantages [G]."""

    asked: Asked
    trunk: np.ndarray
    completions: list[Completion]
    rewards: np.ndarray
    advantages: np.ndarray

    def counted(self, *, mask_truncated: bool) -> list[int]:
        """Return which completions train."""
        return [g for g, one in enumerate(self.completions) if one.ended or not mask_truncated]


@dataclass(frozen=True, eq=False)
class Rollout:
    """The groups of a step that are this rank's, and of all ranks' groups: prompts [N], rewards, tokens and ends
    [N, G], and whether each trains."""

    groups: dict[int, Group]
    prompts: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    trains: np.ndarray


class Roller:
    """What makes a `Rollout` of a step's number: the prompts with their token ids (`trunks`), what draws and what
    rewards them. `counts` are of all its draws."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Asked],
        trunks: Sequence[np.ndarray],
        sampler: PromptSampler,
        reward: RewardSum,
        *,
        options: GrpoOptions,
        generator: Generator,
        ranks: Ranks,
    ) -> None:
        self.policy, self.options, self.generator, self.ranks = policy, options, generator, ranks
        self.prompts, self.trunks, self.sampler, self.reward = prompts, trunks, sampler, reward
        self.counts = BinCounts()
        self.ends = frozenset(policy.loaded.chat.end[-1:])

    @property
    def sampling(self) -> Sampling:
        """Return how completions are drawn."""
        o = self.options
        return Sampling(o.max_new_tokens, self.ends, o.temperature, top_k=o.top_k, top_p=o.top_p)

    def rollout(self, step: int) -> Rollout:
        """Draw prompts, completions and their rewards; replace groups whose rewards are all alike."""
        prompts = self.sampler.draw(self.options.batch_size)
        got = self._answered(prompts, np.arange(len(prompts)), (step, 0))
        self.counts.drawn(self.prompts, prompts)
        for turn in range(1, self.options.redraw + 1):
            alike = np.flatnonzero(~got.trains)
            if not len(alike):
                break
            self.counts.dropped(self.prompts, got.prompts[alike])
            again = self.sampler.draw(len(alike), [self.prompts[p].bin for p in got.prompts[alike].tolist()])
            self.counts.drawn(self.prompts, again)
            got = _replaced(got, alike, self._answered(again, alike, (step, turn)))
        self.counts.dropped(self.prompts, got.prompts[~got.trains])
        self.sampler.observe(got.prompts, got.rewards)
        return got

    def _answered(self, prompts: np.ndarray, places: np.ndarray, seed: tuple[int, int]) -> Rollout:
        """Return completions of prompts [N] and their rewards; `places` [N] number them in the step, `seed` the step
        and the round."""
        size, ranks = self.options.num_generations, self.ranks
        own = [i for i in range(len(prompts)) if int(places[i]) % ranks.count == ranks.rank]
        asked = [self.prompts[prompts[i]] for i in own]
        trunks = [self.trunks[prompts[i]] for i in own]
        seeds = [(self.options.seed, *seed, int(places[i])) for i in own]
        answers = self._generated(asked, trunks, seeds) if own else []
        texts = [self.text(one) for group in answers for one in group]
        rewards = np.zeros((len(prompts), size))
        lengths, ended = np.zeros_like(rewards), np.zeros_like(rewards)
        if own:
            rewards[own] = self.reward([one for one in asked for _ in range(size)], texts).reshape(-1, size)
            lengths[own] = [[len(one.tokens) for one in group] for group in answers]
            ended[own] = [[one.ended for one in group] for group in answers]
        rewards, lengths, ended = self._summed(rewards, lengths, ended)
        groups = {
            int(places[i]): Group(asked[k], trunks[k], answers[k], rewards[i], np.zeros(size))
            for k, i in enumerate(own)
        }
        trains = np.ptp(rewards, axis=1) > self.options.min_spread
        return Rollout(groups, prompts, rewards, lengths, ended=ended > 0, trains=trains)

    def _generated(
        self, asked: Sequence[Asked], trunks: Sequence[np.ndarray], seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        try:
            return self.generator.generate(trunks, self.options.num_generations, self.sampling, seeds)
        except FloatingPointError as error:
            names = ", ".join(one.opening_id for one in asked[:5])
            raise NotFiniteError(
                f"Step {seeds[0][1] + 1:,}: {error}. Its openings begin with {names}. Try a lower --learning_rate, or "
                "--precision float32."
            ) from error

    def _summed(self, *arrays: np.ndarray) -> list[np.ndarray]:
        tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in arrays]
        self.ranks.sum(tensors)
        return [t.numpy() for t in tensors]

    def text(self, completion: Completion) -> str:
        """Return what a completion says, without its end."""
        return text_of(self.policy, completion)


def _replaced(got: Rollout, places: np.ndarray, other: Rollout) -> Rollout:
    """Return a rollout with the groups at `places` replaced by those of another."""
    arrays = {}
    for name in ("prompts", "rewards", "lengths", "ended", "trains"):
        arrays[name] = getattr(got, name).copy()
        arrays[name][places] = getattr(other, name)
    return Rollout(got.groups | other.groups, **arrays)
