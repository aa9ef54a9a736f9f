"""The steps of a whole training: a function of the pairs, their weights, the options and the seed alone."""

from __future__ import annotations

import math

import numpy as np

from kat.errors import InputError
from kat.training.steps import steps_of_pass, systematic_counts
from kat.training_config import PairTrainingOptions

KEPT = 1 << 22
"""Pairs whose order in passes is kept, 32 MB: it is asked for four times, to count steps, to take them, to report."""


class Plan:
    """Which pairs make which step, of pairs of prompts `prompt` [P] with weights v [P] of mean 1; `total` steps."""

    def __init__(self, prompt: np.ndarray, weights: np.ndarray, options: PairTrainingOptions) -> None:
        self.options = options
        self._prompt, self._weights = prompt, np.asarray(weights, np.float32)
        self._passes: dict[int, list[np.ndarray]] = {}
        self.total = self._total()

    def of_pass(self, epoch: int) -> list[np.ndarray]:
        """Return the pairs of each step of a pass, the smallest step last."""
        if epoch not in self._passes:
            draw = np.random.default_rng([self.options.seed, epoch])
            counts = systematic_counts(self._weights, draw) if self.options.weight_by == "sampling" else None
            steps = steps_of_pass(self._prompt, self.options.batch_size, draw, counts)
            if not steps:
                raise InputError("No pair stands in a pass: the weights are below 1 in all. Try --weight_by loss.")
            smallest = min(range(len(steps)), key=lambda s: len(steps[s]))
            if len(self._passes) * len(self._prompt) > KEPT:
                self._passes = {}
            self._passes[epoch] = [*steps[:smallest], *steps[smallest + 1 :], steps[smallest]]
        return self._passes[epoch]

    def _total(self) -> int:
        limit = math.inf if self.options.max_steps is None else self.options.max_steps
        total = 0
        for epoch in range(self.options.epochs):
            total += len(self.of_pass(epoch))
            if total >= limit:
                break
        return int(min(total, limit))

    def steps(self) -> list[np.ndarray]:
        """Return the pairs of all steps of the training."""
        steps: list[np.ndarray] = []
        for epoch in range(self.options.epochs):
            if len(steps) < self.total:
                steps += self.of_pass(epoch)
        return steps[: self.total]

    def repeated_trunks(self, taken: int) -> int:
        """Return how many trunks the first `taken` steps compute once more within their pass."""
        repeated = 0
        for epoch in range(self.options.epochs):
            if taken > 0:
                prompts = [np.unique(self._prompt[pairs]) for pairs in self.of_pass(epoch)[:taken]]
                repeated += sum(map(len, prompts)) - len(np.unique(np.concatenate(prompts)))
                taken -= len(prompts)
        return repeated

    def pairs(self) -> np.ndarray:
        """Return the numbers of the pairs that stand in a step, ascending."""
        return np.unique(np.concatenate(self.steps()))
