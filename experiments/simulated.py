"""Simulated pairs of known truth: how often `kat try-weights` recommends a weighting, and what weights gain and cost.

Features are normal, openings have densities that say nothing of them, and

    well specified   one linear rule for all: weights add variance only, so that every recommendation is wrong
    misspecified     the rarest fifth has a rule of its own, turned from the crowd's by an angle: no head has both, and
                     weighing the rare more gains there what it costs elsewhere
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import beta

from experiments.effects import table
from kat.density.weights import weigh
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import EVERY, RARE, best_of
from kat.pair_weights.controls import permuted
from kat.pair_weights.weigh import blend_weights, even_out
from kat.statistics import density_bins
from kat.training.trials import Arm, cross_validate

BLENDS = {"density": 1.0, "½ density": 0.5, "¼ density": 0.25}


@dataclass(frozen=True)
class Simulated:
    """What is drawn: `turned` are the degrees between the rules of the rare and of the crowd, 0 for one rule."""

    pairs: int
    turned: float
    dimensions: int = 10
    folds: int = 5
    seeds: int = 2
    permutations: int = 20


def simulated(setting: Simulated, sets: int, on_set: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Return how often a weighting is recommended in `sets` simulated sets, with an interval of 99 %, and what each
    gains on average, with standard errors."""
    recommended, gains = 0, []
    for number in range(sets):
        helped, gained = one_set(number, setting)
        recommended += helped
        gains.append(gained)
        on_set()
    every = np.asarray(gains)
    names = (*BLENDS, "uniform, L2 tuned for the rare")
    parts = [(part, what) for part in (RARE, EVERY) for what in ("log_loss", "accuracy")]
    arms = {
        name: {
            f"{part}: {what}": [float(every[:, a, i].mean()), float(every[:, a, i].std(ddof=1) / np.sqrt(sets))]
            for i, (part, what) in enumerate(parts)
        }
        for a, name in enumerate(names)
    }
    bounds = list(clopper_pearson(recommended, sets))
    return asdict(setting) | {"sets": sets, "recommended": recommended, "interval": bounds, "arms": arms}


def one_set(number: int, setting: Simulated) -> tuple[bool, list[list[float]]]:
    """Return whether a weighting is recommended for one simulated set, and the gains of each: log-loss and accuracy of
    the rarest fifth, then of every pair."""
    rng = np.random.default_rng((number, int(10 * setting.turned)))
    x, opening, log_density = drawn(rng, setting)
    bins = density_bins(log_density, np.ones(len(log_density), bool))[opening]
    w = np.asarray(weigh(np.exp(log_density), ess=0.5).values, np.float64)
    arms = [Arm("uniform", _ones)]
    for name, blend in BLENDS.items():
        arms.append(Arm(name, partial(weights_of, w, opening, blend), partial(permuted_of, w, opening, blend)))
    arms.append(Arm("uniform, L2 tuned for the rare", _ones, tuned_on=bins == 0))
    counts = {"folds": setting.folds, "seeds": setting.seeds, "permutations": setting.permutations}
    trials = cross_validate(x, opening, arms, **counts, seed=number)
    pairs = EvalPairs([f"p{i}" for i in range(len(x))], [f"o{o}" for o in opening], ["s"] * len(x), bins)
    tried = trials.compared(pairs, replicates=200, seed=number)
    gains = [
        [d.value for part in (RARE, EVERY) for d in (one.gains[part].log_loss, one.gains[part].accuracy)]
        for one in tried
    ]
    return best_of(tried) is not None, gains


def drawn(rng: np.random.Generator, setting: Simulated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return differences of features [P, D], the opening [P] of each pair and the log density [X] of each opening."""
    opening = np.sort(rng.integers(0, setting.pairs // 2, setting.pairs))
    opening = np.unique(opening, return_inverse=True)[1]
    log_density = rng.normal(size=opening.max() + 1)
    rare = density_bins(log_density, np.ones(len(log_density), bool))[opening] == 0
    one, other = np.linalg.qr(rng.normal(size=(setting.dimensions, 2)))[0].T * 2
    angle = np.deg2rad(setting.turned)
    rule = np.where(rare[:, None], np.cos(angle) * one + np.sin(angle) * other, one)
    x = rng.normal(size=(setting.pairs, setting.dimensions)).astype(np.float32)
    wrong = rng.random(setting.pairs) > 1 / (1 + np.exp(-(x * rule).sum(1)))
    return np.where(wrong[:, None], -x, x).astype(np.float32), opening, log_density


def weights_of(w: np.ndarray, opening: np.ndarray, blend: float, rows: np.ndarray) -> np.ndarray:
    """Return the weights of the pairs that train."""
    own = opening[rows]
    return blend_weights(even_out(w[own], np.ones(len(own))), own, blend=blend).values


def permuted_of(w: np.ndarray, opening: np.ndarray, blend: float, rows: np.ndarray, number: int) -> np.ndarray:
    """Return the weights of one of their permutations."""
    own, ones = opening[rows], np.ones(len(rows))
    moved = permuted(even_out(w[own], ones), own, ones, number, draws=4)
    return blend_weights(moved, own, blend=blend).values


def clopper_pearson(hits: int, count: int, level: float = 0.99) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper & Pearson, Biometrika 26, 1934)."""
    tail = (1 - level) / 2
    low = beta.ppf(tail, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, count - hits) if hits < count else 1.0
    return float(low), float(high)


def shown(told: dict[str, Any]) -> str:
    """Return a sentence and the table: mean gains in points of accuracy and log-loss × 100, ± 2 standard errors."""
    low, high = told["interval"]
    said = (
        f"{told['sets']} sets of {told['pairs']:,} pairs, rules {told['turned']:g}° apart: a weighting is recommended "
        f"in {told['recommended']} of them, {told['recommended'] / told['sets']:.1%} [{low:.1%}, {high:.1%}]."
    )
    rows = [
        [name, *(f"{100 * mean:+.2f} ± {200 * error:.2f}" for mean, error in gains.values())]
        for name, gains in told["arms"].items()
    ]
    head = ["weights", "rarest fifth: log-loss", "rarest fifth: accuracy", "every pair: log-loss"]
    return f"{said}\n\n{table([*head, 'every pair: accuracy'], rows)}"


def _ones(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows))
