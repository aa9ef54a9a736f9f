"""A tenth of the labels is flipped, in rare or in crowded places: does weighing the rare find the wrong labels?

A weighting by density cannot tell a rare prompt from an outlier (Zhai et al., "DORO: Distributional and outlier robust
optimization", ICML 2021). Labels are flipped where they train, never where they are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.arms import density_arms, plain_arms
from experiments.effects import effect, points, table
from experiments.problems import Problem
from kat.evaluation.metrics import log_losses, wins
from kat.training.trials import Arm, fit_fold, group_folds

SHARE = 0.1
FOLDS = 5
PLACES = ("nowhere", "the rarer half", "the more crowded half", "everywhere")


def flipped(
    problem: Problem, seeds: int, *, seed: int = 0, on_fold: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Return what each weighting gains over uniform, measured on right labels, by where labels are wrong."""
    arms = [*plain_arms(problem), *density_arms(problem)]
    told = {}
    for place in PLACES:
        values = np.full((2, len(arms), seeds, len(problem)), np.nan)
        on_wrong = np.zeros((len(arms), seeds * FOLDS))
        for s in range(seeds):
            draw = np.random.default_rng((seed, s))
            fold = group_folds(problem.group, FOLDS, draw)
            wrong = flips(problem, place, np.random.default_rng((seed, s, 1)))
            x = np.where(wrong[:, None], -problem.x, problem.x)
            for f in range(FOLDS):
                train, held = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
                fitted = fit_fold(x, train, problem.group, arms, permutations=0, draw=draw)
                said = (fitted.data.z[held] @ fitted.heads.T).T.numpy() * np.where(wrong[held], -1, 1)
                values[0, :, s, held], values[1, :, s, held] = log_losses(said).T, wins(said).T
                on_wrong[:, s * FOLDS + f] = [_weight_on(arm, train, wrong) for arm in arms]
                on_fold()
        told[place] = _told(problem, arms, values, on_wrong)
    return {"pairs": len(problem), "seeds": seeds, "flipped": SHARE, "places": told}


def flips(problem: Problem, place: str, draw: np.random.Generator) -> np.ndarray:
    """Return which pairs [P] have a wrong label: a tenth of all pairs, all of them in that place."""
    wrong = np.zeros(len(problem), bool)
    if place == "nowhere":
        return wrong
    rarity = problem.w[problem.opening]
    order = np.argsort(-rarity, kind="stable")
    half = {"the rarer half": order[: len(order) // 2], "the more crowded half": order[len(order) // 2 :]}
    among = half.get(place, order)
    wrong[draw.permutation(among)[: round(SHARE * len(problem))]] = True
    return wrong


def _weight_on(arm: Arm, train: np.ndarray, wrong: np.ndarray) -> float:
    """Return the share of the weight that lies on wrong labels, over their share of the pairs; NaN for none."""
    weights, own = arm.weigh(train), wrong[train]
    return float(weights[own].sum() / weights.sum() / own.mean()) if own.any() else float("nan")


def _told(problem: Problem, arms: list[Arm], values: np.ndarray, on_wrong: np.ndarray) -> dict[str, Any]:
    rare = problem.bin == 0
    parts = {"bin 0": rare, "every pair": np.ones(len(problem), bool)}
    told: dict[str, Any] = {}
    for a, arm in enumerate(arms):
        one: dict[str, Any] = {"weight_on_wrong": None if np.isnan(on_wrong[a]).all() else float(on_wrong[a].mean())}
        for part, own in parts.items():
            one[part] = {
                "log_loss": effect(values[0, a][:, own] - values[0, 0][:, own], problem.opening[own]).as_dict(),
                "accuracy": effect(values[1, a][:, own] - values[1, 0][:, own], problem.opening[own]).as_dict(),
                "level": float(values[1, a][:, own].mean()),
            }
        told[arm.name] = one
    return told


def shown(told: dict[str, Any]) -> str:
    """Return the table: gains in points of accuracy and log-loss × 100 (negative is better)."""
    head = ["wrong labels, weights", "weight on wrong labels", "rarest fifth: log-loss", "rarest fifth: accuracy"]
    head += ["every pair: log-loss", "every pair: accuracy"]
    rows = []
    for place, arms in told["places"].items():
        for name, one in arms.items():
            on = one["weight_on_wrong"]
            if name == "uniform":
                cells = ["", f"{100 * one['bin 0']['level']:.1f} %", "", f"{100 * one['every pair']['level']:.1f} %"]
            else:
                cells = [
                    points(one[part][what]) for part in ("bin 0", "every pair") for what in ("log_loss", "accuracy")
                ]
            rows.append([f"{place}: {name}", "–" if on is None else f"× {on:.2f}", *cells])
    return table(head, rows)
