"""Planted rarity: known topics are thinned to a sixteenth in training, and measured on all the pairs they had.

How much of what weights that undo the thinning would gain do weights of density gain, and who pays? The oracle's are
16 for the thinned topics, 1 for the others. Density is measured on the openings that train, as in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.arms import density_arms, dro_arm, group_arms, multiplicity_arm, oracle_arm, plain_arms
from experiments.effects import effect, points, recovered, table
from experiments.problems import Problem, drawn_topics, thinned
from kat.evaluation.metrics import log_losses, wins
from kat.training.trials import Arm, fit_fold

KEPT = 1 / 16
RARE_SHARE = 0.2
PERMUTATIONS = 20
NONINFERIOR = 0.005


def planted(
    problem: Problem,
    draws: int,
    *,
    choose: Callable[[int, np.random.Generator], list[str]] | None = None,
    seed: int = 0,
    on_draw: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Return what each weighting gains over uniform on the thinned topics and on the rest, over `draws` draws.

    `choose(draw, rng)` names the topics that are thinned, a fifth of the openings at random by default.
    """
    by_arm: dict[str, list[np.ndarray]] = {}
    rares = []
    for number in range(draws):
        draw = np.random.default_rng((seed, number))
        rare = drawn_topics(problem, RARE_SHARE, draw) if choose is None else choose(number, draw)
        train, test, is_rare = thinned(problem, rare, KEPT, draw)
        for name, values in _one_draw(problem, train, test, is_rare, draw).items():
            spread = np.full((2, len(problem)), np.nan)
            spread[:, test] = values
            by_arm.setdefault(name, []).append(spread)
        rares.append(is_rare)
        on_draw()
    return _told(problem, {name: np.stack(values, 1) for name, values in by_arm.items()}, np.stack(rares))


def _one_draw(
    problem: Problem, train: np.ndarray, test: np.ndarray, is_rare: np.ndarray, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the log-losses and wins [2, n] of each arm on the pairs that test."""
    part = problem.rows(train)
    arms = [*plain_arms(part), *density_arms(part), multiplicity_arm(part), *group_arms(part)]
    arms += [dro_arm(part), oracle_arm(is_rare[train], 1 / KEPT)]
    x = np.concatenate([part.x, problem.x[test]])
    group = np.concatenate([part.group, problem.group[test]])
    fold = fit_fold(x, np.arange(len(part)), group, arms, permutations=PERMUTATIONS, draw=draw)
    said = (fold.data.z[len(part) :] @ fold.heads.T).T.numpy()
    values = {arm.name: _both(said[a][None]) for a, arm in enumerate(arms)}
    moving = [arm for arm in arms if arm.permuted is not None]
    for place, arm in enumerate(moving):
        begin = len(arms) + place * PERMUTATIONS
        values[_permuted(arm)] = _both(said[begin : begin + PERMUTATIONS])
    return values


def _permuted(arm: Arm) -> str:
    return f"{arm.name}, permuted"


def _both(margins: np.ndarray) -> np.ndarray:
    """Return mean log-losses and wins [2, n] of margins [R, n]."""
    return np.stack([log_losses(margins).mean(0), wins(margins).mean(0)])


def _told(problem: Problem, values: dict[str, np.ndarray], rares: np.ndarray) -> dict[str, Any]:
    uniform = values["uniform"]
    parts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "rare": lambda v: np.where(rares, v, np.nan),
        "rest": lambda v: np.where(rares, np.nan, v),
    }
    arms = {}
    for name, own in values.items():
        if name == "uniform":
            continue
        told: dict[str, Any] = {}
        for part, only in parts.items():
            loss, won = (only(own[i] - uniform[i]) for i in range(2))
            told[part] = {
                "log_loss": effect(loss, problem.opening).as_dict(),
                "accuracy": effect(won, problem.opening).as_dict(),
            }
        oracle = values["oracle"][0] - uniform[0]
        told["recovered"] = recovered(
            parts["rare"](own[0] - uniform[0]), parts["rare"](oracle), problem.opening
        ).as_dict()
        rest, rare = told["rest"]["accuracy"]["interval"], told["rare"]["log_loss"]["interval"]
        told["rare_superior"] = bool(rare is not None and rare[1] < 0)
        told["rest_noninferior"] = bool(rest is not None and rest[0] > -NONINFERIOR)
        arms[name] = told
    level = {part: float(np.nanmean(only(uniform[1]))) for part, only in parts.items()}
    counts = {"draws": len(rares), "pairs": len(problem), "rare_pairs": int((rares & ~np.isnan(uniform[0])).sum())}
    return counts | {"uniform_accuracy": level, "arms": arms}


def shown(told: dict[str, Any]) -> str:
    """Return the table: gains in points of accuracy and log-loss × 100 (negative is better)."""
    head = [
        "weights",
        "rare: log-loss",
        "rare: accuracy",
        "rest: log-loss",
        "rest: accuracy",
        "of the oracle's gain",
        "rare better, rest not worse",
    ]
    oracle = told["arms"]["oracle"]["rare"]["log_loss"]["interval"]
    certain = oracle is not None and oracle[1] < 0
    rows = []
    for name, one in told["arms"].items():
        cells = [points(one[part][what]) for part in ("rare", "rest") for what in ("log_loss", "accuracy")]
        share = points(one["recovered"]).replace("+", "") + " %" if certain and name != "oracle" else "–"
        both = f"{'yes' if one['rare_superior'] else 'no'}, {'yes' if one['rest_noninferior'] else 'no'}"
        rows.append([name, *cells, share, both])
    return table(head, rows)
