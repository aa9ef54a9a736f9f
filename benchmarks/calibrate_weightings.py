"""How often `kat try-weights` recommends a weighting where none is better than uniform, and finds one that is.

Simulated pairs of known truth: features are normal, openings have densities that say nothing of them, and

    null     one linear rule for all: weights add variance only, so that every recommendation is wrong
    planted  the rarest fifth has a rule of its own, turned from the crowd's by an angle: weighing it more gains there

The figures are the share of sets with a recommendation, with a 99 % interval (Clopper & Pearson 1934), and the measured
gain of half density on the rarest fifth. Usage:

    python benchmarks/calibrate_weightings.py --sets 400 --pairs 1000
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
from scipy.stats import beta

from kat.density.weights import weigh
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import best_of, try_weightings
from kat.pair_weights.controls import permuted
from kat.pair_weights.weigh import blend_weights, even_out
from kat.statistics import density_bins
from kat.training.trials import Arm, cross_validate

BLENDS = {"density": 1.0, "blend=0.5": 0.5, "blend=0.25": 0.25}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=10)
    parser.add_argument("--turned", type=float, default=50.0, help="Degrees between the two rules.")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--permutations", type=int, default=20)
    options = parser.parse_args()
    for name, turned in (("null", 0.0), ("planted", options.turned)):
        began, found, gains = time.monotonic(), 0, []
        for number in range(options.sets):
            recommended, gain = one_set(number, turned, options)
            found += recommended
            gains.append(gain)
        low, high = clopper_pearson(found, options.sets)
        print(
            f"{name:<8} {found:>4} of {options.sets} sets with a recommendation: {found / options.sets:.1%} "
            f"[{low:.1%}, {high:.1%}]; blend=0.5 gains {100 * np.mean(gains):+.1f} points on the rarest fifth "
            f"(± {100 * np.std(gains):.1f} a set); {time.monotonic() - began:.0f} s",
            flush=True,
        )


def one_set(number: int, turned: float, options: argparse.Namespace) -> tuple[bool, float]:
    """Return whether a weighting is recommended for one simulated set, and what half density gains where it is rare."""
    rng = np.random.default_rng((number, int(10 * turned)))
    x, opening, log_density = drawn(rng, options.pairs, options.dimensions, turned)
    bins = density_bins(log_density, np.ones(len(log_density), bool))[opening]
    w = np.asarray(weigh(np.exp(log_density), ess=0.5).values, np.float64)
    arms = [Arm("uniform", lambda rows: np.ones(len(rows)))]
    for name, blend in BLENDS.items():
        arms.append(Arm(name, partial(weights_of, w, opening, blend), partial(permuted_of, w, opening, blend)))
    counts = {"folds": options.folds, "seeds": options.seeds, "permutations": options.permutations}
    trials = cross_validate(x, opening, arms, **counts, seed=number)
    pairs = EvalPairs([f"p{i}" for i in range(len(x))], [f"o{o}" for o in opening], ["s"] * len(x), bins)
    told = {"permuted_losses": trials.permuted_losses, "permuted_wins": trials.permuted_wins}
    tried = try_weightings(pairs, trials.names, trials.margins, **told, replicates=200, seed=number)
    half = next(one for one in tried if one.name == "blend=0.5")
    return best_of(tried) is not None, half.gains["bin 0"].accuracy.value


def drawn(
    rng: np.random.Generator, pairs: int, dimensions: int, turned: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return differences of features [P, D], the opening [P] of each pair and the log density [X] of each opening."""
    opening = np.sort(rng.integers(0, pairs // 2, pairs))
    opening = np.unique(opening, return_inverse=True)[1]
    log_density = rng.normal(size=opening.max() + 1)
    rare = density_bins(log_density, np.ones(len(log_density), bool))[opening] == 0
    one, other = np.linalg.qr(rng.normal(size=(dimensions, 2)))[0].T * 2
    angle = np.deg2rad(turned)
    rule = np.where(rare[:, None], np.cos(angle) * one + np.sin(angle) * other, one)
    x = rng.normal(size=(pairs, dimensions)).astype(np.float32)
    wrong = rng.random(pairs) > 1 / (1 + np.exp(-(x * rule).sum(1)))
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


def clopper_pearson(found: int, count: int, level: float = 0.99) -> tuple[float, float]:
    """Return the exact interval of a share."""
    tail = (1 - level) / 2
    low = beta.ppf(tail, found, count - found + 1) if found else 0.0
    high = beta.ppf(1 - tail, found + 1, count - found) if found < count else 1.0
    return float(low), float(high)


if __name__ == "__main__":
    main()
