"""Natural data: what weights of density do in cross-validated heads, against permutations of two kinds.

The endpoint is the log-loss of the rarest fifth of the openings. Permutations keep the multiplicity of what they move;
the second kind also keeps the source, so that what is left of a gain beside it lies inside the sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.arms import density_arms, plain_arms, within_sources
from experiments.effects import points, table
from experiments.problems import Problem
from kat.evaluation.metrics import log_losses, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import RARE, tried_facts, try_weightings
from kat.training.trials import cross_validate

PERMUTATIONS = 20
FOLDS = 5


def natural(
    problem: Problem, seeds: int, *, seed: int = 0, on_fold: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Return what `kat try-weights` would tell of each weighting, and beside permutations within sources."""
    plain, density = plain_arms(problem), density_arms(problem)
    arms = [*plain, *density]
    if len(np.unique(problem.source)) > 1:
        arms += [within_sources(problem, arm, blend) for arm, blend in zip(density, (1.0, 0.5, 0.25), strict=False)]
    trials = cross_validate(
        problem.x,
        problem.group,
        arms,
        folds=FOLDS,
        seeds=seeds,
        permutations=PERMUTATIONS,
        seed=seed,
        on_fold=on_fold,
    )
    pairs = EvalPairs(
        ids=[str(i) for i in range(len(problem))],
        opening=problem.opening.astype(str).tolist(),
        src=problem.source.tolist(),
        bin=problem.bin,
    )
    tried = try_weightings(
        pairs,
        trials.names,
        trials.margins,
        permuted_losses=trials.permuted_losses,
        permuted_wins=trials.permuted_wins,
        seed=seed,
    )
    mean = trials.margins[0].mean(0)
    level = {"every pair": mean, RARE: mean[problem.bin == 0], "bin 4": mean[problem.bin == 4]}
    return {
        "pairs": len(problem),
        "openings": len(problem.vectors),
        "seeds": seeds,
        "uniform": {
            name: {"accuracy": float(wins(m).mean()), "log_loss": float(log_losses(m).mean())}
            for name, m in level.items()
        },
        "weightings": [tried_facts(one) for one in tried],
    }


def shown(told: dict[str, Any]) -> str:
    """Return the table: gains in points of accuracy and log-loss × 100 (negative is better)."""
    head = ["weights", "rarest fifth: log-loss", "p (Holm)", "rarest fifth: accuracy", "every pair: log-loss"]
    head += ["every pair: accuracy", "densest fifth: accuracy", "place among permutations", "ahead of them", "helps"]
    rows = []
    for one in told["weightings"]:
        cells = [points(one["gains"][RARE]["log_loss"]), f"{one['p_rare_log_loss']:.3g}"]
        cells += [points(one["gains"][RARE]["accuracy"])]
        cells += [points(one["gains"]["every pair"][what]) for what in ("log_loss", "accuracy")]
        cells += [points(one["gains"]["bin 4"]["accuracy"])]
        beside = one["permuted"]
        if beside is None:
            cells += ["–", "–"]
        else:
            low, high = beside["ahead_interval"]
            cells += [f"{beside['rank']} of {beside['count'] + 1}"]
            cells += [f"{100 * beside['ahead']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"]
        rows.append([one["name"], *cells, "yes" if one["helps"] else "no"])
    return table(head, rows)
