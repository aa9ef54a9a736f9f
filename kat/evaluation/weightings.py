"""What weightings of pairs do, from the margins of cross-validated heads: differences from uniform, and what to use.

A weighting is worth using if the rarest fifth of the openings gains by more than chance, every pair together does not
lose more than NONINFERIOR, and the weighting does better than its own permutations, which have its effective sample
size and none of its geometry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from kat.evaluation.evaluate import compare
from kat.evaluation.metrics import log_losses, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.power import cluster_error, detectable
from kat.evaluation.results import Difference

LEVEL = 0.05
NONINFERIOR = 0.005
"""How much accuracy over every pair a weighting may cost at most: the whole interval must lie above its negative."""
RARE = "bin 0"
EVERY, OPENINGS = "every pair", "every opening"


@dataclass(frozen=True)
class Gain:
    """A difference from uniform, in one part of the pairs: accuracy (a share, more is better) and log-loss (in nats,
    less is better). Intervals hold the draw of openings and the variance between seeds; `detectable` is the smallest
    difference that would be found in four of five cases."""

    accuracy: Difference
    log_loss: Difference


@dataclass(frozen=True)
class Permuted:
    """A weighting beside its permutations, on the rarest fifth: means of theirs less uniform's, the weighting's less
    theirs with an interval of the permutations' spread too, and its rank among them all by log-loss, 1 the best."""

    accuracy: float
    log_loss: float
    ahead: float
    ahead_interval: tuple[float, float]
    rank: int
    count: int


@dataclass(frozen=True)
class Tried:
    """A weighting's gains by part ("every pair", "every opening", "bin 0" …, sources by name), the p-value of the
    log-loss of the rarest fifth after Holm's correction for all weightings, and whether it is worth using."""

    name: str
    gains: Mapping[str, Gain]
    sources: Mapping[str, Gain]
    p: float
    permuted: Permuted | None
    helps: bool


def try_weightings(
    pairs: EvalPairs,
    names: Sequence[str],
    margins: np.ndarray,
    *,
    permuted_losses: np.ndarray,
    permuted_wins: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
) -> list[Tried]:
    """Compare weightings 1 … A − 1 with weighting 0, which is uniform.

    `margins` [A, S, P] are of A weightings and S seeds, `permuted_losses` and `permuted_wins` [A, R, P] the log-losses
    and wins of their permutations, the mean over seeds (NaN for none). Beside uniform, a pair's margin is the mean over
    the seeds, and the variance between the seeds is added; beside permutations, its log-loss is.
    """
    cluster = pairs.clusters()
    rows = _parts(pairs)
    gains = [_gains(pairs, rows, cluster, arm, margins[0], replicates=replicates, seed=seed) for arm in margins[1:]]
    ps = holm([one[RARE].log_loss.p if RARE in one else 1.0 for one, _ in gains])
    tried = []
    for a, (name, (own, sources), p) in enumerate(zip(names[1:], gains, ps, strict=True), 1):
        beside = None
        if len(permuted_losses[a]) and not np.isnan(permuted_losses[a]).any() and RARE in rows:
            moved = (permuted_losses[a][:, rows[RARE]], permuted_wins[a][:, rows[RARE]])
            beside = _beside(margins[a][:, rows[RARE]], moved, margins[0][:, rows[RARE]], cluster[rows[RARE]])
        tried.append(Tried(name, own, sources, p, permuted=beside, helps=_helps(own, p, beside)))
    return tried


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order, corrected, least = np.argsort(ps, kind="stable"), [1.0] * len(ps), 0.0
    for place, i in enumerate(order.tolist()):
        least = max(least, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = least
    return corrected


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """Return the weighting that helps and whose rarest fifth gains most log-loss; None if none helps."""
    helping = [one for one in tried if one.helps]
    return min(helping, key=lambda one: one.gains[RARE].log_loss.value) if helping else None


def _helps(gains: Mapping[str, Gain], p: float, beside: Permuted | None) -> bool:
    if RARE not in gains:
        return False
    rare, every = gains[RARE], gains[EVERY].accuracy
    low = every.value if every.interval is None else every.interval[0]
    return (
        p < LEVEL
        and rare.log_loss.value < 0
        and rare.accuracy.value >= 0
        and low > -NONINFERIOR
        and (beside is None or beside.rank == 1)
    )


def _parts(pairs: EvalPairs) -> dict[str, np.ndarray]:
    return {f"bin {name}": rows for name, rows in pairs.subsets()["bins"].items()}


def _gains(
    pairs: EvalPairs,
    rows: Mapping[str, np.ndarray],
    cluster: np.ndarray,
    arm: np.ndarray,
    uniform: np.ndarray,
    *,
    replicates: int,
    seed: int,
) -> tuple[dict[str, Gain], dict[str, Gain]]:
    """The gains of an arm [S, P] over uniform [S, P], by part and by source."""
    zero = np.zeros(len(pairs))
    told = compare(pairs, (arm.mean(0), zero), (uniform.mean(0), zero), replicates=replicates, seed=seed)
    values = {
        "accuracy": wins(arm) - wins(uniform),
        "log_loss": log_losses(arm) - log_losses(uniform),
    }
    weights = 1 / np.bincount(cluster)[cluster]
    every = np.arange(len(pairs))

    def gain(differences: Mapping[str, Difference], own: np.ndarray, each: np.ndarray | None = None) -> Gain:
        each = np.ones(len(pairs)) if each is None else each
        return Gain(
            **{name: _widened(differences[name], v[:, own], each[own], cluster[own]) for name, v in values.items()}
        )

    gains = {
        EVERY: gain(told.all["unweighted"], every),
        OPENINGS: gain(told.all["balanced"], every, weights),
    }
    gains |= {f"bin {name}": gain(part["unweighted"], rows[f"bin {name}"]) for name, part in told.bins.items()}
    sources = pairs.subsets()["sources"]
    by_source = {name: gain(part["unweighted"], sources[name]) for name, part in told.sources.items()}
    return gains, by_source


def _widened(difference: Difference, values: np.ndarray, weights: np.ndarray, cluster: np.ndarray) -> Difference:
    """A difference with the variance between seeds [S, n] added to that of the openings: a wider interval, a larger
    p-value (that of a normal test with both, if that is larger) and detectable effect."""
    seeds = len(values)
    means = (values * weights).sum(1) / weights.sum()
    between = float(means.var(ddof=1)) / seeds if seeds > 1 else 0.0
    within = cluster_error(values.mean(0), weights, cluster) ** 2
    if not within > 0:  # one opening, or nothing that differs
        return difference
    factor = float(np.sqrt(1 + between / within))
    error = float(np.sqrt(within + between))
    wide = difference.interval
    if wide is not None:
        wide = (
            difference.value + (wide[0] - difference.value) * factor,
            difference.value + (wide[1] - difference.value) * factor,
        )
    normal = 2 * NormalDist().cdf(-abs(difference.value) / error)
    return Difference(difference.value, wide, max(difference.p, normal), detectable(error))


def _beside(
    arm: np.ndarray, moved: tuple[np.ndarray, np.ndarray], uniform: np.ndarray, cluster: np.ndarray
) -> Permuted:
    """An arm [S, n] beside the log-losses and wins [R, n] of its permutations, on the same pairs."""
    losses, won = moved
    own = log_losses(arm).mean(0)
    ahead = own - losses.mean(0)
    error = cluster_error(ahead, np.ones(len(ahead)), np.unique(cluster, return_inverse=True)[1])
    means = losses.mean(1)
    between = float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
    half = NormalDist().inv_cdf(1 - LEVEL / 2) * float(np.sqrt(np.nan_to_num(error) ** 2 + between))
    mean = float(ahead.mean())
    return Permuted(
        accuracy=float(won.mean() - wins(uniform).mean()),
        log_loss=float(means.mean() - log_losses(uniform).mean()),
        ahead=mean,
        ahead_interval=(mean - half, mean + half),
        rank=1 + int((means < own.mean()).sum()),
        count=len(means),
    )


def tried_facts(one: Tried) -> dict[str, Any]:
    """Return a weighting's results as plain values."""

    def gains(parts: Mapping[str, Gain]) -> dict[str, Any]:
        return {part: {name: d.as_dict() for name, d in vars(gain).items()} for part, gain in parts.items()}

    permuted = None if one.permuted is None else vars(one.permuted)
    return {
        "name": one.name,
        "gains": gains(one.gains),
        "sources": gains(one.sources),
        "p_rare_log_loss": one.p,
        "permuted": permuted,
        "helps": one.helps,
    }
