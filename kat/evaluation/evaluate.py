"""Rewards of pairs → what they are worth: everything unweighted, by opening, by density bin and by source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kat.errors import InputError, MismatchError
from kat.evaluation.intervals import REPLICATES, effective_clusters, interval, replicate
from kat.evaluation.metrics import ECE_BINS, confidences, ece, ece_cells, log_losses, margins, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.power import cluster_error, detectable
from kat.evaluation.results import LONGER, VIEWS, Comparison, Difference, Estimate, Evaluation, Part
from kat.evaluation.scores import LARGEST
from kat.evaluation.significance import sign_flip
from kat.parameters import whole_number

_NAMES = ("accuracy", "margin", "log_loss", LONGER, "ece")
"""In the order of `_statistics`."""


class _Bootstrap(NamedTuple):
    """How intervals are made: of how many replicates, drawn from which seed."""

    replicates: int
    seed: int

    def draw(self, sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        """Return the statistic [R, S] of replicates of the openings' sums [X, C]; None for a single opening."""
        return replicate(sums, statistic, self.replicates, self.seed) if len(sums) > 1 else None


def evaluate(
    pairs: EvalPairs, chosen: np.ndarray, rejected: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> Evaluation:
    """Evaluate the rewards [P] of the chosen and the rejected completions, whatever model they come from.

    Intervals are of a cluster bootstrap over openings. Raises OptionError for fewer than one replicate, MismatchError
    for other lengths than P, InputError for a reward that is not finite.

    >>> pairs = kat.EvalPairs(["a", "b", "c", "d"], ["q1", "q1", "q2", "q2"], ["chat"] * 4)
    >>> chosen, rejected = np.array([1.0, 2.0, 0.0, 3.0]), np.array([0.0, 1.0, 1.0, 1.0])
    >>> kat.evaluate(pairs, chosen, rejected, replicates=100).all.estimates["unweighted"]["accuracy"].value
    0.75
    """
    whole_number("replicates", replicates)
    margin = _margins(pairs, chosen, rejected)
    columns = _columns(pairs, margin)
    cluster, subsets = pairs.clusters(), pairs.subsets()
    longer, bootstrap = lengths_known(pairs), _Bootstrap(replicates, seed)

    def part(rows: np.ndarray) -> Part:
        return _part(columns[rows], cluster[rows], longer, bootstrap)

    return Evaluation(
        all=part(np.arange(len(pairs))),
        macro=_macro(columns, cluster, subsets["bins"], longer, bootstrap),
        bins={name: part(rows) for name, rows in subsets["bins"].items()},
        sources={name: part(rows) for name, rows in subsets["sources"].items()},
        replicates=replicates,
        seed=seed,
    )


def compare(
    pairs: EvalPairs,
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same pairs, each given by its rewards of chosen and rejected [P].

    Raises what `evaluate` raises.

    >>> rng = np.random.default_rng(0)
    >>> openings = [f"opening {i // 2}" for i in range(200)]
    >>> pairs = kat.EvalPairs([f"pair {i}" for i in range(200)], openings, ["chat"] * 200)
    >>> good = rng.normal(size=200) + 2, rng.normal(size=200)
    >>> coin = rng.normal(size=200), rng.normal(size=200)
    >>> gain = kat.compare(pairs, good, coin, replicates=200).all["unweighted"]["accuracy"]
    >>> gain.value > 0.3, gain.p < 0.01
    (True, True)
    """
    whole_number("replicates", replicates)
    margin_1, margin_2 = (_margins(pairs, *rewards) for rewards in (first, second))
    values = {
        "accuracy": wins(margin_1) - wins(margin_2),
        "log_loss": log_losses(margin_1) - log_losses(margin_2),
    }
    return _comparison(pairs, values, _Bootstrap(replicates, seed))


def compare_with_longer(
    pairs: EvalPairs, chosen: np.ndarray, rejected: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> Comparison | None:
    """Compare a model's accuracy with the guess that the longer completion wins; None where lengths are not known.

    Raises what `evaluate` raises.
    """
    if not lengths_known(pairs):
        return None
    margin = _margins(pairs, chosen, rejected)
    values = {"accuracy": wins(margin) - wins(_length_margins(pairs))}
    return _comparison(pairs, values, _Bootstrap(replicates, seed))


def lengths_known(pairs: EvalPairs) -> bool:
    """Return whether the lengths of both completions are known."""
    return pairs.chosen_chars is not None and pairs.rejected_chars is not None


def _margins(pairs: EvalPairs, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Return the margins [P], after checking that there is a usable reward for every completion."""
    chosen, rejected = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    for name, values in (("chosen", chosen), ("rejected", rejected)):
        if values.shape != (len(pairs),):
            raise MismatchError(f"Rewards of {name} have shape {values.shape}; there are {len(pairs):,} pairs.")
        usable = np.abs(values) < LARGEST
        if not usable.all():
            row = int(np.argmin(usable))
            raise InputError(f"The reward of {name} of pair {pairs.ids[row]} is {values[row]}, not a finite number.")
    return margins(chosen, rejected)


def _length_margins(pairs: EvalPairs) -> np.ndarray:
    return np.asarray(pairs.chosen_chars, np.float64) - np.asarray(pairs.rejected_chars, np.float64)


def _columns(pairs: EvalPairs, margin: np.ndarray) -> np.ndarray:
    """Return what is summed of each pair, [P, 5 + 2 · ECE_BINS]: 1, win, margin, log-loss, longer wins, and in the
    columns of its calibration bin its confidence and whether it was right."""
    # Sums of these columns are all that any statistic here needs, so that a replicate is one matrix product.
    win, cell = wins(margin), ece_cells(margin)[:, None] == np.arange(ECE_BINS)
    longer = wins(_length_margins(pairs)) if lengths_known(pairs) else np.zeros(len(margin))
    plain = [np.ones(len(margin)), win, margin, log_losses(margin), longer]
    return np.concatenate([np.stack(plain, 1), cell * confidences(margin)[:, None], cell * win[:, None]], axis=1)


def _statistics(totals: np.ndarray) -> np.ndarray:
    """Turn totals [R, 5 + 2 · ECE_BINS] to accuracy, margin, log-loss, longer wins and ECE [R, 5]; NaN for no pairs."""
    weight = totals[..., :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals[..., 1:5] / weight
        error = ece(totals[..., 5 : 5 + ECE_BINS], totals[..., 5 + ECE_BINS :], weight)
    return np.concatenate([means, error[..., None]], axis=-1)


def _part(columns: np.ndarray, cluster: np.ndarray, longer: bool, bootstrap: _Bootstrap) -> Part:
    """Return both views of some pairs, from one draw of replicates."""
    sums = _summed(columns, cluster)
    width = columns.shape[1]

    def statistic(totals: np.ndarray) -> np.ndarray:
        return np.concatenate([_statistics(totals[..., :width]), _statistics(totals[..., width:])], axis=-1)

    values = statistic(sums.sum(axis=0))
    drawn = bootstrap.draw(sums, statistic)
    views = {}
    for v, view in enumerate(VIEWS):
        slots = range(v * len(_NAMES), (v + 1) * len(_NAMES))
        views[view] = _estimates(values, drawn, slots, longer, effective_clusters(sums[:, v * width]))
    return Part(len(columns), len(sums), views)


def _summed(columns: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Return the columns [P, C] summed by opening, as they are and divided by the opening's pairs: [X, 2 C]."""
    _, place, m = np.unique(cluster, return_inverse=True, return_counts=True)
    plain = np.zeros((len(m), columns.shape[1]))
    np.add.at(plain, place, columns)
    return np.concatenate([plain, plain / m[:, None]], axis=1)


def _estimates(
    values: np.ndarray, drawn: np.ndarray | None, slots: range, longer: bool, effective: float
) -> dict[str, Estimate]:
    """Return the metrics in `slots` of the statistics [S], with intervals from replicates [R, S] if there are any."""
    estimates = {}
    for name, slot in zip(_NAMES, slots, strict=True):
        if name != LONGER or longer:
            between = None if drawn is None else interval(drawn[:, slot], effective)
            estimates[name] = Estimate(float(values[slot]), between)
    return estimates


def _macro(
    columns: np.ndarray, cluster: np.ndarray, bins: Mapping[str, np.ndarray], longer: bool, bootstrap: _Bootstrap
) -> dict[str, Estimate] | None:
    """Return the mean over bins of their balanced statistics; openings are drawn from all bins at once."""
    if not bins:
        return None
    width = columns.shape[1]
    # Each bin sums into columns of its own, [X, C · bins], so that one draw of openings serves the mean over bins.
    blocks = []
    for i, rows in enumerate(bins.values()):
        balanced = _summed(columns[rows], cluster[rows])[:, width:]
        wide = np.zeros((len(balanced), width * len(bins)))
        wide[:, i * width : (i + 1) * width] = balanced
        blocks.append(wide)
    sums = np.concatenate(blocks)

    def statistic(totals: np.ndarray) -> np.ndarray:
        return _statistics(totals.reshape(*totals.shape[:-1], len(bins), width)).mean(axis=-2)

    drawn = bootstrap.draw(sums, statistic)
    return _estimates(statistic(sums.sum(axis=0)), drawn, range(len(_NAMES)), longer, len(sums))


def _comparison(pairs: EvalPairs, values: Mapping[str, np.ndarray], bootstrap: _Bootstrap) -> Comparison:
    """Return the differences of all parts, of a first model's values [P] minus a second's by metric."""
    cluster, subsets = pairs.clusters(), pairs.subsets()

    def part(rows: np.ndarray) -> dict[str, dict[str, Difference]]:
        return _differences({name: v[rows] for name, v in values.items()}, cluster[rows], bootstrap)

    return Comparison(
        all=part(np.arange(len(pairs))),
        bins={name: part(rows) for name, rows in subsets["bins"].items()},
        sources={name: part(rows) for name, rows in subsets["sources"].items()},
        replicates=bootstrap.replicates,
        seed=bootstrap.seed,
    )


def _differences(
    values: Mapping[str, np.ndarray], cluster: np.ndarray, bootstrap: _Bootstrap
) -> dict[str, dict[str, Difference]]:
    """Return differences by view and metric, from the differences [P] of the pairs of a part."""
    _, place, m = np.unique(cluster, return_inverse=True, return_counts=True)
    columns = np.stack([np.ones(len(place)), *values.values()], 1)
    sums = _summed(columns, cluster)
    width = columns.shape[1]

    def statistic(totals: np.ndarray) -> np.ndarray:
        halves = totals.reshape(*totals.shape[:-1], 2, width)
        return (halves[..., 1:] / halves[..., :1]).reshape(*totals.shape[:-1], -1)

    means, drawn = statistic(sums.sum(axis=0)), bootstrap.draw(sums, statistic)
    views: dict[str, dict[str, Difference]] = {}
    for v, view in enumerate(VIEWS):
        effective = effective_clusters(sums[:, v * width])
        weights = np.ones(len(place)) if view == "unweighted" else 1 / m[place]
        views[view] = {}
        for i, (name, value) in enumerate(values.items()):
            column = v * len(values) + i
            views[view][name] = Difference(
                float(means[column]),
                None if drawn is None else interval(drawn[:, column], effective),
                sign_flip(np.bincount(place, weights * value), seed=bootstrap.seed),
                detectable(cluster_error(value, weights, place)),
            )
    return views
