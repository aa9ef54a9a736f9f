"""The loop that steps an optimiser through pairs: schedule, clipping, ranks, what is logged, and how it goes on after
a stop.

Which pairs make which step follows from the pairs, the options and the seed (`kat.training.plan`), so that all there
is to keep for resuming is the number of the step and the states of parameters and optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from kat.errors import InputError
from kat.packing.products import SharedWeights
from kat.training.losses import bradley_terry
from kat.training.plan import Plan
from kat.training.ranks import OneRank, Ranks
from kat.training.tokens import TokenPairs
from kat.training_config import PairTrainingOptions

DECILES = 10

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, dict[str, float]]]
"""What a step's rewards lose, from chosen, rejected, weights, margins and nominal: see `losses.bradley_terry`."""


class Rewarder(Protocol):
    """What turns the pairs of a step into rewards, a part of the step at a time."""

    def parts(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, Callable[[], tuple[torch.Tensor, torch.Tensor]]]]:
        """Yield some of the pairs [p], and what computes their chosen and rejected rewards [p], until all were there.
        With several ranks, those of this one."""


@dataclass
class Progress:
    """How far training is, and what is counted on the way: sums over pairs by name, and what clipping took."""

    step: int = 0
    pairs: int = 0
    clipped: int = 0
    weight: np.ndarray = field(default_factory=lambda: np.zeros(DECILES))
    lost: np.ndarray = field(default_factory=lambda: np.zeros(DECILES))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    best_loss: float = math.inf
    best_step: int = 0

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in ("weight", "lost", "seen")}
        numbers = {name: getattr(self, name) for name in ("step", "pairs", "clipped", "best_loss", "best_step")}
        return numbers | arrays

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """Return the progress of a checkpoint's `state`."""
        arrays = {name: state[name].cpu().numpy() for name in ("weight", "lost", "seen")}
        best = {name: state[name] for name in ("best_loss", "best_step")}
        return cls(state["step"], state["pairs"], state["clipped"], **arrays, **best)


class NotFiniteError(InputError):
    """A loss or gradient that is not a finite number; the message names the pairs of the step."""


class Trainer:
    """The training of a reward model, or of a policy by DPO, on weighed pairs; `run` yields after every step.

    `weights` [P] are the pair weights v, of mean 1. The loss of a step is Σ v · `loss` / B, B the batch size
    (`kat.training.losses`); the smallest step is the last of its pass and divides by its own count.
    """

    def __init__(
        self,
        rewarder: Rewarder,
        groups: list[dict[str, Any]],
        data: TokenPairs,
        weights: np.ndarray,
        options: PairTrainingOptions,
        ranks: Ranks | None = None,
        loss: Loss = bradley_terry,
    ) -> None:
        if len(weights) != len(data):
            raise InputError(f"There are {len(data):,} pairs and {len(weights):,} weights.")
        if not len(data):
            raise InputError("No pair is left to train.")
        self.rewarder, self.data, self.options = rewarder, data, options
        self.ranks: Ranks = ranks or OneRank()
        self.loss = loss
        self.weights = np.asarray(weights, np.float32)
        self.parameters = [p for group in groups for p in group["params"]]
        device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(
            groups,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=options.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self._rates = [group["lr"] for group in groups]
        self.progress = Progress(seen=np.zeros(len(data), bool))
        self._decile = _deciles(self.weights)
        self._best: list[torch.Tensor] = []
        self.plan = Plan(data.prompt, self.weights, options)
        self.total = self.plan.total

    def run(self) -> Iterator[dict[str, Any]]:
        """Step through what is left, and yield each step's numbers."""
        first = 0
        for epoch in range(self.options.epochs):
            if first >= self.total:
                return
            steps = self.plan.of_pass(epoch)
            for place, pairs in enumerate(steps, first):
                if place >= self.total:
                    return
                if place < self.progress.step:
                    continue  # done before a stop
                is_last = place == first + len(steps) - 1
                yield self.step(pairs, len(pairs) if is_last else self.options.batch_size) | {"epoch": epoch}
            first += len(steps)

    def step(self, pairs: np.ndarray, nominal: int) -> dict[str, Any]:
        """Take one step by these pairs; return what it was like. Raises NotFiniteError, with nothing changed."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        by_loss = self.options.weight_by == "loss"
        with SharedWeights():
            for some, rewards in self.rewarder.parts(pairs):
                chosen, rejected = rewards()
                v = torch.from_numpy(self.weights[some] if by_loss else np.ones(len(some), np.float32)).to(
                    chosen.device
                )
                margins = torch.from_numpy(self.data.margins[some]).to(chosen.device)
                loss, part = self.loss(chosen, rejected, v, margins, nominal)
                loss.backward()
                sums = {name: sums.get(name, 0.0) + value for name, value in part.items()}
        sums = self._over_ranks(sums)
        norm = self._norm()
        if not math.isfinite(norm) or not math.isfinite(sums["loss"]):
            ids = ", ".join(self.data.ids[pair] for pair in pairs[:5].tolist())
            by_part = self.options.train != "head" and hasattr(self.options, "backbone_lr")
            rate = "--backbone_lr" if by_part else "--learning_rate"
            precise = "" if self.options.precision == "float32" else "--precision float32, or "
            raise NotFiniteError(
                f"Step {self.progress.step + 1:,}: the loss is {sums['loss']:g} and the gradient's norm {norm:g}. Its "
                f"{len(pairs):,} pairs begin with {ids}. Try {precise}a lower {rate}."
            )
        factor = min(1.0, self.options.grad_clip / (norm + 1e-6)) if self.options.grad_clip else 1.0
        if factor < 1:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)
        share = self._schedule(self.progress.step)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.step()
        self._count(pairs, factor)
        numbers = {name: value / len(pairs) for name, value in sums.items() if name != "weight"}
        return {
            "step": self.progress.step,
            "pairs": len(pairs),
            "loss": numbers["loss"],
            "weighted_loss": numbers["weighted_loss"],
            "accuracy": numbers["correct"],
            "margin": numbers["margin"],
            "gradient_norm": norm,
            "clipped_to": factor,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _over_ranks(self, sums: dict[str, float]) -> dict[str, float]:
        """Sum gradients and numbers over the ranks; a rank without a part of this step adds zeros."""
        if self.ranks.count == 1:
            return sums
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        names = ("loss", "weighted_loss", "weight", "correct", "margin")
        numbers = torch.tensor([sums.get(name, 0.0) for name in names], dtype=torch.float64)
        self.ranks.sum([p.grad for p in self.parameters if p.grad is not None])
        self.ranks.sum([numbers])
        return dict(zip(names, numbers.tolist(), strict=True))

    def _norm(self) -> float:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([n.float() for n in torch._foreach_norm(grads)])))

    def _count(self, pairs: np.ndarray, factor: float) -> None:
        progress, v = self.progress, self.weights[pairs].astype(np.float64)
        progress.step += 1
        progress.pairs += len(pairs)
        progress.clipped += factor < 1
        progress.seen[pairs] = True
        np.add.at(progress.weight, self._decile[pairs], v)
        np.add.at(progress.lost, self._decile[pairs], v * (1 - factor))

    def _schedule(self, step: int) -> float:
        """Return the share of the learning rate at a step: a linear rise over the warm-up, then as told."""
        warm = round(self.options.warmup * self.total)
        if step < warm:
            return (step + 1) / (warm + 1)
        left = (self.total - step) / max(self.total - warm, 1)
        if self.options.schedule == "linear":
            return left
        return 0.5 * (1 - math.cos(math.pi * left)) if self.options.schedule == "cosine" else 1.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: plain values and tensors."""
        return {
            "progress": self.progress.state(),
            "optimizer": self.optimizer.state_dict(),
            "parameters": [p.detach() for p in self.parameters],
            "best": self._best,
        }

    def compare(self, loss: float) -> None:
        """Keep the parameters if their loss, on pairs that do not train, is the lowest so far."""
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self._best = [p.detach().clone() for p in self.parameters]

    def take_best(self) -> None:
        """Go back to the parameters of the lowest loss, if there were any comparisons."""
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, self._best or self.parameters, strict=True):
                parameter.copy_(kept)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.progress = Progress.of(state["progress"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(kept)
        self._best = [kept.to(p.device) for p, kept in zip(self.parameters, state["best"], strict=False)]

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the training so far."""
        progress = self.progress
        tenths = zip(progress.lost.tolist(), progress.weight.tolist(), strict=True)
        return {
            "best_step": progress.best_step or None,
            "steps": progress.step,
            "pairs_trained": progress.pairs,
            "pairs_never_seen": int((~progress.seen).sum()),
            "repeated_trunks": self.plan.repeated_trunks(progress.step),
            "clipped_steps": progress.clipped / max(progress.step, 1),
            "weight_lost_to_clipping_by_weight_decile": [
                round(lost / weight, 6) if weight else None for lost, weight in tenths
            ],
        }


def _deciles(weights: np.ndarray) -> np.ndarray:
    """Return the tenth of the pairs, by weight, that each pair is in; equal weights are in one, and leave others
    empty."""
    edges = np.quantile(weights, np.linspace(0, 1, DECILES + 1)[1:-1])
    return np.searchsorted(edges, weights, side="left")
