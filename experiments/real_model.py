"""A reward model that trains more than a head: SmolLM2's last two blocks, cross-fitted in two halves of the groups.

All weightings share the pass through the frozen blocks, which is kept on disk, so that each costs its trained blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.arms import density_arms
from experiments.effects import points, table
from experiments.problems import Problem, ones
from kat.devices import torch_threads
from kat.evaluation.evaluate import compare
from kat.evaluation.metrics import wins
from kat.evaluation.pairs import EvalPairs
from kat.records import Pair
from kat.training.activations import Activations, KeptActivations
from kat.training.loop import Trainer
from kat.training.reward import RewardModel, choose_trainable
from kat.training.tokens import TokenPairs
from kat.training.train import load_reward_model, tokens_of
from kat.training_config import RewardOptions

OPTIONS = RewardOptions(train="last:2", long_completions="drop")
ARMS = ("uniform", "density", "¼ density", "¼ density, permuted")
HELD = "cross-fitted"
SCORED = 64
"""Pairs whose rewards are computed at a time."""


@dataclass(frozen=True, eq=False)
class OfPart:
    """Rewards of some of the pairs, by their numbers among those: `rows` [n] ascending are their numbers among all."""

    kept: KeptActivations
    rows: np.ndarray

    def parts(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield pairs and what computes their rewards, as a trainer asks for them."""
        for numbers, rewards in self.kept.parts(self.rows[pairs]):
            yield np.searchsorted(self.rows, numbers), rewards


def cross_fitted(
    problem: Problem,
    pairs: Mapping[str, Pair],
    extra: Mapping[str, Sequence[Pair]],
    kept: Path,
    options: RewardOptions = OPTIONS,
) -> dict[str, Any]:
    """Return what each weighting gains over uniform on pairs whose half took no part in its training.

    `pairs` are the problem's, by their ids. `extra` are sets that nothing trains on: there the mean of both halves'
    margins is measured. Activations, and margins of trainings that are done, are kept in the folder `kept`.
    """
    model = load_reward_model(options, "cpu")
    data = tokens_of(model, (replace(pairs[one], id=one) for one in problem.ids.tolist()), options)
    place = {one: row for row, one in enumerate(problem.ids.tolist())}
    problem = problem.rows(np.asarray([place[one] for one in data.ids]))
    sets = {HELD: data} | {name: tokens_of(model, listed, options) for name, listed in extra.items()}
    half = halves(problem.group)
    margins = {name: np.zeros((len(ARMS), len(one))) for name, one in sets.items()}
    work = Work(model, sets, kept, options)
    for side, arm in ((side, arm) for side in range(2) for arm in range(len(ARMS))):
        train = np.flatnonzero(half != side)
        path = work.kept[HELD].kept.folder / f"margins-{side}-{arm}.npz"
        if not path.is_file():
            print(f"training on half {side}: {ARMS[arm]}", flush=True)
            held = np.flatnonzero(half == side)
            np.savez(path, **work.trained(train, held, weights_of(problem, ARMS[arm], train)))
        with np.load(path, allow_pickle=False) as kept_margins:
            margins[HELD][arm, half == side] = kept_margins[HELD]
            for name in extra:
                margins[name][arm] += kept_margins[name] / 2
    told = {"pairs": len(data), "dropped": dict(data.dropped), HELD: differences(_of_problem(problem), margins[HELD])}
    return told | {name: differences(_of_pairs(sets[name], extra[name]), margins[name]) for name in extra}


def halves(group: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the half [P] of each pair, 0 or 1, whole groups in one."""
    names = np.random.default_rng(seed).permutation(np.unique(group))
    return np.isin(group, names[: len(names) // 2]).astype(np.int64)


def weights_of(problem: Problem, arm: str, train: np.ndarray) -> np.ndarray:
    """Return the weights [n] of the pairs that train."""
    if arm == "uniform":
        return ones(len(train))
    name, _, is_permuted = arm.partition(", ")
    density = next(one for one in density_arms(problem) if one.name == name)
    assert density.permuted is not None
    return density.permuted(train, 0) if is_permuted else density.weigh(train)


class Work:
    """A model, the activations of some sets of pairs, and the trainings that start from them."""

    def __init__(self, model: RewardModel, sets: Mapping[str, TokenPairs], kept: Path, options: RewardOptions) -> None:
        self.model, self.sets, self.options = model, sets, options
        names = choose_trainable(model, options.train)
        self.named = {name: parameter for name, parameter in model.model.named_parameters() if name in names}
        self.begun = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        blocks = int(options.train.removeprefix("last:"))
        self.kept = {
            name: KeptActivations(
                model, Activations(kept, model, data, blocks, options.row_tokens), blocks, options.row_tokens
            )
            for name, data in sets.items()
        }

    def trained(self, train: np.ndarray, held: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Train on some pairs from the beginning; return the margins of the pairs `held`, and of all other sets."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(self.begun[name])
        head = [p for name, p in self.named.items() if name.startswith(f"{self.model.head_name}.")]
        below = [p for name, p in self.named.items() if not name.startswith(f"{self.model.head_name}.")]
        groups = [
            {"params": head, "lr": self.options.learning_rate},
            {"params": below, "lr": self.options.backbone_lr},
        ]
        data = self.sets[HELD].select(train)
        trainer = Trainer(OfPart(self.kept[HELD], train), groups, data, weights, self.options)
        with torch_threads():
            for _ in tqdm(trainer.run(), total=trainer.total, unit="step", disable=None):
                pass
            others = {name: np.arange(len(data)) for name, data in self.sets.items() if name != HELD}
            return {name: self.margins(name, rows) for name, rows in {HELD: held, **others}.items()}

    def margins(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return chosen less rejected rewards of the pairs `rows` [n] of a set."""
        rows = rows[np.argsort(self.sets[name].prompt[rows], kind="stable")]
        margin = np.full(int(rows.max()) + 1, np.nan)
        with torch.no_grad():
            for start in range(0, len(rows), SCORED):
                for numbers, rewards in self.kept[name].parts(rows[start : start + SCORED]):
                    chosen, rejected = (side.double().numpy() for side in rewards())
                    margin[numbers] = chosen - rejected
        return margin[np.sort(rows)]


def differences(pairs: EvalPairs, margins: np.ndarray) -> dict[str, Any]:
    """Return the accuracy of uniform, and what the other weightings gain: `margins` [A, P]."""
    zero, told = np.zeros(len(pairs)), {}
    for name, own in zip(ARMS[1:], margins[1:], strict=True):
        comparison = compare(pairs, (own, zero), (margins[0], zero))
        parts = {"every pair": comparison.all["unweighted"], "every opening": comparison.all["balanced"]}
        parts |= {f"bin {number}": one["unweighted"] for number, one in comparison.bins.items()}
        parts |= {source: one["unweighted"] for source, one in comparison.sources.items()}
        told[name] = {part: {what: d.as_dict() for what, d in one.items()} for part, one in parts.items()}
    return {"pairs": len(pairs), "uniform_accuracy": float(wins(margins[0]).mean()), "gains": told}


def _of_problem(problem: Problem) -> EvalPairs:
    return EvalPairs(problem.ids.tolist(), problem.opening.astype(str).tolist(), problem.source.tolist(), problem.bin)


def _of_pairs(data: TokenPairs, pairs: Sequence[Pair]) -> EvalPairs:
    by_id = {pair.id: pair for pair in pairs}
    own = [by_id[one] for one in data.ids]
    return EvalPairs(list(data.ids), [pair.prefix.id for pair in own], [pair.src for pair in own])


def shown(told: dict[str, Any]) -> str:
    """Return a table for each set: gains in points of accuracy and log-loss × 100 (negative is better)."""
    said = []
    for name, one in told.items():
        if not isinstance(one, dict) or "gains" not in one:
            continue
        rows = [
            [f"{arm}, {part}", points(gain["accuracy"]), _detectable(gain["accuracy"]), points(gain["log_loss"])]
            for arm, parts in one["gains"].items()
            for part, gain in parts.items()
        ]
        head = ["weights, pairs", "accuracy", "detectable", "log-loss"]
        said.append(f"{name}: {one['pairs']:,} pairs, uniform {one['uniform_accuracy']:.1%}\n\n{table(head, rows)}")
    return "\n\n".join(said)


def _detectable(told: Mapping[str, Any]) -> str:
    effect = told["minimum_detectable_effect"]
    return "–" if effect is None else f"{100 * effect:.1f}"
