"""The loop of GRPO: draw prompts, let the policy answer, reward the answers, and step towards the better ones.

What a step does follows from the prompts, the options, the seed and the parameters: a completion's random numbers come
from the seed and the numbers of its step, prompt and completion. So what is kept for resuming is the parameters, the
optimiser, the sampler's place and the counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kat.errors import InputError
from kat.grpo_config import GrpoOptions
from kat.packing.products import SharedWeights
from kat.packing.trunks import Prompt, Row, plant
from kat.training.generation import Generator, PolicyGenerator
from kat.training.grpo_losses import (
    Surrogate,
    adapted_beta,
    advantages,
    policy_loss,
    token_weights,
    truncated_importance,
)
from kat.training.grpo_metrics import BinCounts, group_numbers, said_numbers, spread_numbers
from kat.training.grpo_rollout import Group, Roller, Rollout
from kat.training.loop import NotFiniteError
from kat.training.policy import Policy
from kat.training.prompt_sampler import Asked, PromptSampler
from kat.training.ranks import OneRank, Ranks
from kat.training.reward_sources import RewardSum
from kat.training.rewarders import rows_in_order


class GrpoTrainer:
    """GRPO of a policy on prompts (token ids of each: `trunks`); `run` yields the numbers of every step.

    `reference` is the policy that KL is measured from, None where beta is 0. `generator` is the policy's own unless
    another engine is given, whose tokens are corrected for (`truncated_importance`).
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Asked],
        trunks: Sequence[np.ndarray],
        sampler: PromptSampler,
        reward: RewardSum,
        *,
        options: GrpoOptions,
        reference: Policy | None = None,
        generator: Generator | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if not prompts:
            raise InputError("There is no prompt to train on.")
        self.policy, self.reference, self.options = policy, reference, options
        self.prompts, self.sampler = prompts, sampler
        self.ranks: Ranks = ranks or OneRank()
        self.own = generator is None
        self.generator: Generator = generator or PolicyGenerator(policy, options.decode_rows)
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        device = policy.device.type
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=options.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=options.weight_decay,
            fused=device in ("cpu", "cuda"),
        )
        self.surrogate = Surrogate(options.ratio, options.clip_low, options.clip_high, options.dual_clip)
        self.done, self.beta = 0, options.beta
        self.shared = SharedWeights()
        self.roller = Roller(
            policy,
            prompts,
            trunks,
            sampler,
            reward,
            options=options,
            generator=self.generator,
            ranks=self.ranks,
        )

    def run(self) -> Iterator[dict[str, Any]]:
        """Take the steps that are left, and yield each one's numbers."""
        while self.done < self.options.max_steps:
            yield self.step()

    def step(self) -> dict[str, Any]:
        """Take one step. Raises NotFiniteError naming the openings, with nothing changed."""
        began = time.monotonic()
        updates: list[dict[str, float]] = []
        with self.shared:
            rollout = self.roller.rollout(self.done)
            generated = time.monotonic()
            trained = np.flatnonzero(rollout.trains)
            if len(trained):
                rollout = replace(rollout, groups=self._with_advantages(rollout, trained))
                updates = self._update(rollout, trained)
                self._refresh()
        self.done += 1
        numbers = self._numbers(rollout, updates)
        if self.options.target_kl is not None and updates:
            self.beta = adapted_beta(self.beta, numbers["kl"], self.options.target_kl, self.options.beta_gain)
        ended = time.monotonic()
        tokens = numbers["tokens_generated"]
        for name, seconds in (("generating", generated - began), ("training", ended - generated)):
            numbers |= {f"seconds_{name}": seconds, f"tokens_a_second_{name}": tokens / max(seconds, 1e-9)}
        return numbers

    def _with_advantages(self, rollout: Rollout, trained: np.ndarray) -> dict[int, Group]:
        """Return this rank's groups that train, with advantages scaled over those of all ranks."""
        all_of_step = advantages(torch.from_numpy(rollout.rewards[trained]), self.options.scale_rewards).numpy()
        place = {int(i): row for i, row in zip(trained, all_of_step, strict=True)}
        return {i: replace(g, advantages=place[i]) for i, g in rollout.groups.items() if i in place}

    def _update(self, rollout: Rollout, trained: np.ndarray) -> list[dict[str, float]]:
        """Take the updates of a step, and return each one's numbers."""
        options, updates = self.options, []
        parts = [part for part in np.array_split(trained, options.minibatches) if len(part)]
        several = options.updates_per_rollout * len(parts) > 1
        rows = {n: list(self._rows(rollout, part)) for n, part in enumerate(parts)}
        if several:  # what is old is of before the first update
            for of_part in rows.values():
                for row in of_part:
                    with torch.no_grad():
                        row.then = self.policy.log_probs(row.row, options.temperature)
        for _ in range(options.updates_per_rollout):
            for n, part in enumerate(parts):
                updates.append(self._one_update(rows[n], rollout, part))
        return updates

    def _one_update(self, rows: list[_TrainRow], rollout: Rollout, part: np.ndarray) -> dict[str, float]:
        options = self.options
        counted = rollout.ended[part] | (not options.mask_truncated)
        whole = {"tokens": int(rollout.lengths[part][counted].sum()), "sequences": int(counted.sum())}
        self.optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(_SUMS, 0.0)  # without a row, where all completions are masked, there is nothing to add
        for row in rows:
            numbers = self._backward(row, whole)
            sums = {name: sums.get(name, 0.0) + value for name, value in numbers.items()}
        sums = self._over_ranks(sums)
        norms = self._norms()
        norm = float(torch.linalg.vector_norm(torch.stack([n.float() for n in norms]))) if norms else 0.0
        if not math.isfinite(norm) or not math.isfinite(sums["loss"]):
            names = ", ".join(self.prompts[p].opening_id for p in rollout.prompts[part][:5].tolist())
            raise NotFiniteError(
                f"Step {self.done + 1:,}: the loss is {sums['loss']:g} and the gradient's norm {norm:g}. Its openings "
                f"begin with {names}. Try a lower --learning_rate, or --precision float32."
            )
        factor = min(1.0, options.grad_clip / (norm + 1e-6)) if options.grad_clip else 1.0
        if factor < 1:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * self._schedule()
        self.optimizer.step()
        self.shared.forget()
        return sums | {"gradient_norm": norm, "clipped_to": factor}

    def _backward(self, row: _TrainRow, whole: dict[str, int]) -> dict[str, float]:
        """Add the gradients of a row's completions; return sums over its tokens."""
        options, device = self.options, self.policy.device
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference = self.reference.log_probs(row.row, options.temperature).to(device)
        predicted = self.policy.predict(row.row, options.temperature)
        now = predicted.log_probs
        then = now.detach() if row.then is None else row.then
        lengths = torch.from_numpy(row.lengths)
        weights = token_weights(lengths, options.normalise, **whole, longest=options.max_new_tokens)
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)
        drawn = None if row.drawn is None else torch.from_numpy(row.drawn).to(device)
        correction = None
        if not self.own and drawn is not None:
            correction = truncated_importance(then, drawn, options.tis_cap)
        loss, sums = policy_loss(
            now,
            then,
            sequence,
            advantage=torch.from_numpy(row.advantages).to(device, torch.float32)[sequence],
            weight=weights.to(device)[sequence],
            surrogate=self.surrogate,
            reference=reference,
            beta=self.beta,
            correction=correction,
        )
        loss.backward()
        if drawn is not None:
            gap = (then - drawn).abs()
            sums |= {"gap": float(gap.sum()), "gap_tokens": float(len(gap))}
        spread = spread_numbers(predicted.means.cpu().numpy(), row.groups)
        return sums | spread | {"entropy": float(predicted.entropy.sum())}

    def _rows(self, rollout: Rollout, part: np.ndarray) -> Iterator[_TrainRow]:
        """Yield this rank's completions of some groups, in rows of whole groups."""
        masked = self.options.mask_truncated
        groups = [rollout.groups[i] for i in part.tolist() if i in rollout.groups]
        kept = [(group, counted) for group in groups if (counted := group.counted(mask_truncated=masked))]
        prompts = [Prompt(g.trunk, [g.completions[c].tokens for c in counted]) for g, counted in kept]
        for places in rows_in_order([p.tokens for p in prompts], self.options.row_tokens):
            some = [kept[p] for p in places]
            completions = [g.completions[c] for g, counted in some for c in counted]
            told = [one.log_probs for one in completions]
            yield _TrainRow(
                row=plant([prompts[p] for p in places]),
                lengths=np.asarray([len(one.tokens) for one in completions]),
                advantages=np.concatenate([g.advantages[counted] for g, counted in some]),
                drawn=None if any(x is None for x in told) else np.concatenate([x for x in told if x is not None]),
                groups=[len(counted) for _, counted in some],
            )

    def _over_ranks(self, sums: dict[str, float]) -> dict[str, float]:
        """Sum gradients and numbers over the ranks; one without a row of this update adds zeros."""
        if self.ranks.count == 1:
            return sums
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        numbers = torch.tensor([sums.get(name, 0.0) for name in _SUMS], dtype=torch.float64)
        self.ranks.sum([p.grad for p in self.parameters if p.grad is not None])
        self.ranks.sum([numbers])
        return dict(zip(_SUMS, numbers.tolist(), strict=True))

    def _norms(self) -> Sequence[torch.Tensor]:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norms: Sequence[torch.Tensor] = torch._foreach_norm(grads) if grads else []
        return norms

    def _schedule(self) -> float:
        """Return the share of the learning rate at a step."""
        total = self.options.max_steps
        warm = round(self.options.warmup * total)
        if self.done < warm:
            return (self.done + 1) / (warm + 1)
        return 1.0 if self.options.schedule == "constant" else (total - self.done) / max(total - warm, 1)

    def _numbers(self, rollout: Rollout, updates: list[dict[str, float]]) -> dict[str, Any]:
        """Return what a step was like: means over its tokens, completions and groups."""
        trained = rollout.trains
        self.roller.counts.trained(self.prompts, rollout.prompts[trained], rollout.lengths[trained].sum(1))
        own = [one.tokens for group in rollout.groups.values() for one in group.completions]
        said = said_numbers([[c.tokens for c in g.completions] for g in rollout.groups.values()])
        numbers = {"step": self.done, "beta": self.beta, "groups": len(trained), "dropped": int((~trained).sum())}
        numbers |= group_numbers(rollout.rewards, rollout.lengths, rollout.ended)
        numbers |= self.roller.counts.rewards(self.prompts, rollout.prompts, rollout.rewards)
        numbers |= {name: value for name, value in said.items() if own}
        if not updates:
            return numbers | dict.fromkeys(("loss", "kl", "entropy", "gradient_norm"), 0.0)
        tokens = sum(u["tokens"] for u in updates)
        for name in ("kl", "entropy", "ratio", "clipped_low", "clipped_high"):
            numbers[name] = sum(u[name] for u in updates) / max(tokens, 1)
        for name in ("loss", "policy", "gradient_norm", "clipped_to"):
            numbers[name] = sum(u[name] for u in updates) / len(updates)
        if gaps := sum(u.get("gap_tokens", 0.0) for u in updates):
            numbers["generator_gap"] = sum(u["gap"] for u in updates) / gaps
        for name in ("spread_within", "spread_across"):
            if count := sum(u.get(f"{name}_count", 0.0) for u in updates):
                numbers[name] = sum(u.get(name, 0.0) for u in updates) / count
        return numbers

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: plain values and tensors."""
        return {
            "progress": {"step": self.done},
            "beta": self.beta,
            "counts": self.roller.counts.state(),
            "sampler": self.sampler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "parameters": [p.detach() for p in self.parameters],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.done, self.beta = state["progress"]["step"], state["beta"]
        self.roller.counts = BinCounts.of(state["counts"])
        self.sampler.load_state_dict(state["sampler"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(kept)
        self.shared.forget()
        self._refresh()

    def _refresh(self) -> None:
        """Tell the generator that the policy has changed, if it wants to know."""
        if (refresh := getattr(self.generator, "refresh", None)) is not None:
            refresh()


_SUMS = (
    *("loss", "policy", "kl", "ratio", "clipped_low", "clipped_high", "tokens", "entropy", "gap", "gap_tokens"),
    *("spread_within", "spread_within_count", "spread_across", "spread_across_count"),
)


@dataclass(eq=False)
class _TrainRow:
    """Completions in a row of whole groups: tokens [S] and advantages [S] of each, log-probabilities [T] as drawn and
    as of before the first update, and how many completions each group has."""

    row: Row
    lengths: np.ndarray
    advantages: np.ndarray
    drawn: np.ndarray | None
    groups: list[int]
    then: torch.Tensor | None = None
