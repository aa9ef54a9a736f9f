"""Natural data: what weights of density do in cross-validated heads, against permutations of two kinds.

The endpoint is the log-loss of the rarest fifth of the openings. Permutations keep the multiplicity of what they move;
the second kind also keeps the source, so that what is left of a gain beside it lies inside the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.arms import density_arms, plain_arms, within_sources
from experiments.effects import points, table
from experiments.problems import Problem
from kat.evaluation.metrics import log_losses, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import RARE, tried_facts
from kat.training.trials import cross_validate

PERMUTATIONS = 20
FOLDS = 5


def natural(
    problem: Problem, seeds: int, *, seed: int = 0, on_fold: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Return what `kat try-weights` would tell of each weighting, and beside permutations within sources."""
    density = density_arms(problem)
    arms = [*plain_arms(problem), *density]
    own = len(arms)
    if len(np.unique(problem.source)) > 1:
        arms += [within_sources(problem, arm, blend) for arm, blend in zip(density, (1.0, 0.5, 0.25), strict=False)]
    counts = {"folds": FOLDS, "seeds": seeds, "permutations": PERMUTATIONS}
    trials = cross_validate(problem.x, problem.group, arms, **counts, seed=seed, on_fold=on_fold)
    opening, source = problem.opening.astype(str).tolist(), problem.source.tolist()
    pairs = EvalPairs(problem.ids.tolist(), opening, source, problem.bin)
    # Apart, for Holm's correction counts weightings, and the same weights beside other permutations are no other ones.
    tried = trials.only(range(own)).compared(pairs, seed=seed)
    beside = trials.only([0, *range(own, len(arms))]).compared(pairs, seed=seed)
    within = {one.name: tried_facts(one)["permuted"] for one in beside}
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
        "weightings": [tried_facts(one) | {"within_sources": within.get(one.name)} for one in tried],
    }


def shown(told: dict[str, Any]) -> str:
    """Return the table: gains in points of accuracy and log-loss × 100 (negative is better)."""
    head = ["weights", "rarest fifth: log-loss", "p (Holm)", "rarest fifth: accuracy", "every pair: log-loss"]
    head += ["every pair: accuracy", "densest fifth: accuracy", "place among permutations", "ahead of them"]
    head += ["place, permuted within sources", "helps"]
    rows = []
    for one in told["weightings"]:
        gains = one["gains"]
        cells = [points(gains[RARE]["log_loss"]), f"{one['p_rare_log_loss']:.3g}", points(gains[RARE]["accuracy"])]
        cells += [points(gains["every pair"][what]) for what in ("log_loss", "accuracy")]
        cells += [points(gains["bin 4"]["accuracy"]), _place(one["permuted"]), _ahead(one["permuted"])]
        rows.append([one["name"], *cells, _place(one["within_sources"]), "yes" if one["helps"] else "no"])
    return table(head, rows)


def _place(beside: Mapping[str, Any] | None) -> str:
    return "–" if beside is None else f"{beside['rank']} of {beside['count'] + 1}"


def _ahead(beside: Mapping[str, Any] | None) -> str:
    return "–" if beside is None else points({"value": beside["ahead"], "interval": beside["ahead_interval"]})
