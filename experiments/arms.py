"""The weightings that are compared, as arms of `kat.training.trials`."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from experiments.problems import Problem, ones
from kat.config import DensityOptions
from kat.pair_weights.controls import permuted
from kat.pair_weights.weigh import blend_weights, even_out, group_weights, multiplicity_factor
from kat.training.heads import differences, fit_heads
from kat.training.trials import Arm

DRAWS = 4
"""Permutations drawn for one that is fitted."""


def plain_arms(problem: Problem) -> list[Arm]:
    """Return what weights are to be better than: uniform, and uniform with its L2 tuned for the rarest fifth."""
    return [Arm("uniform", _uniform), Arm("uniform, L2 tuned for the rare", _uniform, tuned_on=problem.bin == 0)]


def density_arms(problem: Problem) -> list[Arm]:
    """Return weights of density: alone, blended, by cluster, and within sources where there are several."""
    arms = [
        _density(problem, "density", 1.0),
        _density(problem, "½ density", 0.5),
        _density(problem, "¼ density", 0.25),
    ]
    arms += [_density(problem, "clusters' density", 1.0, smooth=problem.cluster)]
    arms += [_density(problem, "½ clusters' density", 0.5, smooth=problem.cluster)]
    if len(np.unique(problem.source)) > 1:
        source = np.unique(problem.source, return_inverse=True)[1]
        arms.append(_density(problem, "density within sources", 1.0, within=source))
    return arms


def multiplicity_arm(problem: Problem) -> Arm:
    """Return weights of multiplicity alone: an opening of m pairs counts √m."""

    def weigh(rows: np.ndarray) -> np.ndarray:
        return blend_weights(ones(len(rows)), problem.opening[rows], multiplicity="sqrt", blend=0.0).values

    return Arm("√m", weigh)


def group_arms(problem: Problem) -> list[Arm]:
    """Return weights of known topics: small topics count more, alone and half."""
    topic = np.unique(problem.topic, return_inverse=True)[1]

    def weigh(blend: float, rows: np.ndarray) -> np.ndarray:
        w, _ = group_weights(topic[rows], DensityOptions.ess, DensityOptions.cap)
        return blend_weights(even_out(w, ones(len(rows))), problem.opening[rows], blend=blend).values

    return [Arm("known topics", partial(weigh, 1.0)), Arm("½ known topics", partial(weigh, 0.5))]


def oracle_arm(rare: np.ndarray, times: float) -> Arm:
    """Return weights that undo a thinning: `times` for the pairs of which `rare` [P] is True, 1 for the others."""

    def weigh(rows: np.ndarray) -> np.ndarray:
        return np.where(rare[rows], times, 1.0)

    return Arm("oracle", weigh)


def dro_arm(problem: Problem, l2: float = 1e-2, rounds: int = 30, rate: float = 1.0) -> Arm:
    """Return the weights of topics that group-DRO arrives at.

    The largest loss of a topic is minimised: topics' shares grow by exp(rate · loss) between fits, and the weights are
    the mean over the rounds (Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020,
    algorithm 1, with a fit for each step).
    """
    topic = np.unique(problem.topic, return_inverse=True)[1]

    def weigh(rows: np.ndarray) -> np.ndarray:
        return dro_weights(problem.x[rows], topic[rows], l2=l2, rounds=rounds, rate=rate)

    return Arm("group-DRO", weigh)


def dro_weights(x: np.ndarray, topic: np.ndarray, *, l2: float, rounds: int, rate: float) -> np.ndarray:
    """Return weights [P] of mean 1 of pairs by their topic [P]: see `dro_arm`."""
    number, counts = np.unique(topic, return_inverse=True, return_counts=True)[1:]
    share, mean = np.full(len(counts), 1 / len(counts)), np.zeros(len(counts))
    data = differences(x)
    for _ in range(rounds):
        mean += share / rounds
        weights = torch.from_numpy((share / counts)[number, None]).float()
        head = fit_heads(data, weights, torch.tensor([l2], dtype=torch.float64))
        loss = torch.nn.functional.softplus(-(data.z @ head[0])).double().numpy()
        share = share * np.exp(rate * np.bincount(number, loss) / counts)
        share /= share.sum()
    weights_of_pairs = (mean / counts)[number]
    return np.asarray(weights_of_pairs / weights_of_pairs.mean())


def within_sources(problem: Problem, arm: Arm, blend: float) -> Arm:
    """Return an arm of density whose permutations move no weight from one source to another."""
    source = np.unique(problem.source, return_inverse=True)[1]

    def move(rows: np.ndarray, number: int) -> np.ndarray:
        opening, plain = problem.opening[rows], ones(len(rows))
        u = even_out(problem.w[opening], plain)
        moved = np.empty_like(u)
        for one in np.unique(source[rows]):
            own = source[rows] == one
            moved[own] = permuted(u[own], opening[own], plain[own], number, draws=DRAWS) * u[own].mean()
        return blend_weights(moved, opening, blend=blend).values

    return Arm(arm.name, arm.weigh, move)


def _density(
    problem: Problem, name: str, blend: float, *, smooth: np.ndarray | None = None, within: np.ndarray | None = None
) -> Arm:
    def strata(rows: np.ndarray) -> dict[str, np.ndarray | None]:
        return {
            "smooth": None if smooth is None else smooth[rows],
            "within": None if within is None else within[rows],
        }

    def evened(rows: np.ndarray) -> np.ndarray:
        factor = multiplicity_factor(problem.opening[rows], "pair")
        return even_out(problem.w[problem.opening[rows]], factor, **strata(rows))

    def weigh(rows: np.ndarray) -> np.ndarray:
        return blend_weights(evened(rows), problem.opening[rows], blend=blend).values

    def move(rows: np.ndarray, number: int) -> np.ndarray:
        opening = problem.opening[rows]
        moved = permuted(evened(rows), opening, ones(len(rows)), number, draws=DRAWS, **strata(rows))
        return blend_weights(moved, opening, blend=blend).values

    return Arm(name, weigh, move)


def _uniform(rows: np.ndarray) -> np.ndarray:
    return ones(len(rows))
