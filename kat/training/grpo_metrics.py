"""What a step of GRPO says about itself: rewards and lengths, variety and repetition, and counts by density bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kat.training.prompt_sampler import Asked

KINDS = ("drawn", "dropped", "trained", "loss_tokens")


@dataclass
class BinCounts:
    """Groups that were drawn, dropped and trained on, and the tokens of these, by density bin ("-1": not known)."""

    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def drawn(self, prompts: Sequence[Asked], rows: np.ndarray) -> None:
        """Count drawn groups."""
        self._add("drawn", prompts, rows, np.ones(len(rows)))

    def dropped(self, prompts: Sequence[Asked], rows: np.ndarray) -> None:
        """Count groups whose rewards were all alike."""
        self._add("dropped", prompts, rows, np.ones(len(rows)))

    def trained(self, prompts: Sequence[Asked], rows: np.ndarray, tokens: np.ndarray) -> None:
        """Count groups that train, and their tokens [N]."""
        self._add("trained", prompts, rows, np.ones(len(rows)))
        self._add("loss_tokens", prompts, rows, tokens)

    def _add(self, kind: str, prompts: Sequence[Asked], rows: np.ndarray, values: np.ndarray) -> None:
        counts = self.counts[kind]
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            name = str(prompts[row].bin)
            counts[name] = counts.get(name, 0) + int(value)

    def rewards(self, prompts: Sequence[Asked], rows: np.ndarray, rewards: np.ndarray) -> dict[str, float]:
        """Return the mean reward [N, G] of the groups of each bin, and its deviation."""
        bins = np.asarray([prompts[row].bin for row in rows.tolist()])
        numbers = {}
        for b in np.unique(bins[bins >= 0]).tolist():
            numbers[f"reward_bin_{b}"] = float(rewards[bins == b].mean())
            numbers[f"reward_std_bin_{b}"] = float(rewards[bins == b].std())
        return numbers

    def state(self) -> dict[str, dict[str, int]]:
        """Return plain values."""
        return {kind: dict(sorted(counts.items())) for kind, counts in self.counts.items()}

    @classmethod
    def of(cls, state: dict[str, dict[str, int]]) -> BinCounts:
        """Return the counts of a `state`."""
        return cls({kind: dict(state[kind]) for kind in KINDS})


def group_numbers(rewards: np.ndarray, lengths: np.ndarray, ended: np.ndarray) -> dict[str, Any]:
    """Return means over completions [N, G]: rewards, their deviation in all and within groups, tokens, and the share
    that was cut off."""
    within = rewards - rewards.mean(1, keepdims=True)
    freedom = max(rewards.shape[0] * (rewards.shape[1] - 1), 1)
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_std_within": float(np.sqrt(np.square(within).sum() / freedom)),
        "length": float(lengths.mean()),
        "truncated": float(1 - ended.mean()),
        "tokens_generated": int(lengths.sum()),
    }


def said_numbers(groups: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """Return how varied token ids of completions are: the share of distinct pairs of tokens within a prompt's
    completions, on average, and over all of them (distinct-2, Li et al. 2016), and the share of runs of four tokens
    that a completion says again ("repetition")."""
    within = [_distinct(list(group), 2) for group in groups]
    every = [tokens for group in groups for tokens in group]
    again = [1 - share for tokens in every if (share := _distinct([tokens], 4)) is not None]
    numbers = {
        "distinct_2_within": [share for share in within if share is not None],
        "distinct_2": [share] if (share := _distinct(every, 2)) is not None else [],
        "repetition": again,
    }
    return {name: float(np.mean(values)) for name, values in numbers.items() if values}


def _distinct(texts: Sequence[np.ndarray], n: int) -> float | None:
    runs = [tuple(tokens[i : i + n].tolist()) for tokens in texts for i in range(len(tokens) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


def spread_numbers(means: np.ndarray, groups: Sequence[int]) -> dict[str, float]:
    """Return sums and counts of how far completions lie apart: one less the cosine of their mean hidden states
    `means` [S, D], for pairs of a group ("spread_within"), and of groups' means ("spread_across")."""
    units = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    parts = np.split(units, np.cumsum(groups)[:-1])
    within = [_apart(part) for part in parts if len(part) > 1]
    centres = np.stack([part.mean(0) for part in parts])
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    numbers = {"spread_within": sum(within), "spread_within_count": float(len(within))}
    if len(parts) > 1:
        numbers |= {"spread_across": _apart(centres), "spread_across_count": 1.0}
    return numbers


def _apart(units: np.ndarray) -> float:
    n = len(units)
    total = float(np.square(units.sum(0)).sum())
    return 1 - (total - n) / (n * (n - 1))


def reward_trend(rewards: Sequence[float], seed: int = 0) -> dict[str, Any] | None:
    """Return by how much the mean reward of the last quarter of the steps is above that of the first, with a 95 %
    interval: a moving-block bootstrap (Künsch 1989) within each quarter, for steps that follow each other are alike.
    None for fewer than 16 steps."""
    count = len(rewards) // 4
    if count < 4:
        return None
    values = np.asarray(rewards, np.float64)
    quarters = values[:count], values[-count:]
    block = max(1, round(count ** (1 / 3)))
    draw = np.random.default_rng(seed)
    blocks = -(-count // block)
    means = []
    for quarter in quarters:
        starts = draw.integers(0, count - block + 1, (4000, blocks))
        rows = (starts[:, :, None] + np.arange(block)).reshape(4000, -1)[:, :count]
        means.append(quarter[rows].mean(1))
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return {"value": float(quarters[1].mean() - quarters[0].mean()), "interval": [float(low), float(high)]}
