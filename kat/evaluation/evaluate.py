"""Rewards of pairs → what they are worth: everything unweighted, by opening, by density bin and by source."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kat.config import whole_number
from kat.errors import InputError, MismatchError
from kat.evaluation.intervals import REPLICATES, effective_clusters, interval, replicate
from kat.evaluation.metrics import ECE_BINS, confidences, ece, ece_cells, log_losses, margins, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.power import cluster_error, detectable
from kat.evaluation.results import LONGER, VIEWS, Comparison, Difference, Estimate, Evaluation, Part
from kat.evaluation.scores import LARGEST
from kat.evaluation.significance import sign_flip

_NAMES = ("accuracy", "margin", "log_loss", LONGER, "ece")
"""In the order of `_statistics`."""


def evaluate(
    pairs: EvalPairs, chosen: np.ndarray, rejected: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> Evaluation:
    """Evaluate the rewards [P] of the chosen and the rejected completions, whatever model they come from.

    Intervals by cluster bootstrap over openings. Raises MismatchError for other lengths than P, InputError for a
    reward that is not finite.
    """
    whole_number("replicates", replicates)
    margin = _margins(pairs, chosen, rejected)
    columns = _columns(pairs, margin)
    cluster, subsets = pairs.clusters(), pairs.subsets()

    def part(rows: np.ndarray) -> Part:
        return _part(columns[rows], cluster[rows], lengths_known(pairs), replicates, seed)

    return Evaluation(
        all=part(np.arange(len(pairs))),
        macro=_macro(columns, cluster, subsets["bins"], lengths_known(pairs), replicates, seed),
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
    """
    whole_number("replicates", replicates)
    one, other = (_margins(pairs, *rewards) for rewards in (first, second))
    values = {"accuracy": wins(one) - wins(other), "log_loss": log_losses(one) - log_losses(other)}
    return _compared(pairs, values, replicates, seed)


def compare_with_longer(
    pairs: EvalPairs, chosen: np.ndarray, rejected: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> Comparison | None:
    """Compare a model's accuracy with the guess that the longer completion wins; None where lengths are not known."""
    if not lengths_known(pairs):
        return None
    margin = _margins(pairs, chosen, rejected)
    return _compared(pairs, {"accuracy": wins(margin) - wins(_length_margins(pairs))}, replicates, seed)


def lengths_known(pairs: EvalPairs) -> bool:
    return pairs.chosen_chars is not None and pairs.rejected_chars is not None


def _margins(pairs: EvalPairs, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
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
    """What is summed of each pair [P, 5 + 2 · ECE_BINS]: 1, win, margin, log-loss, longer wins, and in the column of
    its calibration bin its confidence and whether it was right."""
    win, cell = wins(margin), ece_cells(margin)[:, None] == np.arange(ECE_BINS)
    longer = wins(_length_margins(pairs)) if lengths_known(pairs) else np.zeros(len(margin))
    plain = [np.ones(len(margin)), win, margin, log_losses(margin), longer]
    return np.concatenate([np.stack(plain, 1), cell * confidences(margin)[:, None], cell * win[:, None]], axis=1)


def _statistics(totals: np.ndarray) -> np.ndarray:
    """Totals [R, 5 + 2 · ECE_BINS] to accuracy, margin, log-loss, longer wins and ECE [R, 5]; NaN for no pairs."""
    weight = totals[..., :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals[..., 1:5] / weight
        error = ece(totals[..., 5 : 5 + ECE_BINS], totals[..., 5 + ECE_BINS :], weight)
    return np.concatenate([means, error[..., None]], axis=-1)


def _part(columns: np.ndarray, cluster: np.ndarray, longer: bool, replicates: int, seed: int) -> Part:
    """Both views of some pairs, from one draw of replicates."""
    sums, n = _summed(columns, cluster)
    width = columns.shape[1]

    def statistic(totals: np.ndarray) -> np.ndarray:
        return np.concatenate([_statistics(totals[..., :width]), _statistics(totals[..., width:])], axis=-1)

    values = statistic(sums.sum(axis=0))
    drawn = replicate(sums, statistic, replicates, seed) if n > 1 else None
    views = {}
    for v, view in enumerate(VIEWS):
        rows = range(v * len(_NAMES), (v + 1) * len(_NAMES))
        views[view] = _estimates(values, drawn, rows, longer, effective_clusters(sums[:, v * width]))
    return Part(len(columns), n, views)


def _summed(columns: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, int]:
    """Columns summed by opening: as they are, and divided by the opening's pairs; [X, 2 C] and X."""
    _, place, m = np.unique(cluster, return_inverse=True, return_counts=True)
    plain = np.zeros((len(m), columns.shape[1]))
    np.add.at(plain, place, columns)
    return np.concatenate([plain, plain / m[:, None]], axis=1), len(m)


def _estimates(
    values: np.ndarray, drawn: np.ndarray | None, rows: range, longer: bool, effective: float
) -> dict[str, Estimate]:
    found = {}
    for name, row in zip(_NAMES, rows, strict=True):
        if name != LONGER or longer:
            found[name] = Estimate(float(values[row]), None if drawn is None else interval(drawn[:, row], effective))
    return found


def _macro(
    columns: np.ndarray, cluster: np.ndarray, bins: Mapping[str, np.ndarray], longer: bool, replicates: int, seed: int
) -> dict[str, Estimate] | None:
    """The mean over bins of their balanced statistics; openings are drawn from all bins at once."""
    if not bins:
        return None
    width = columns.shape[1]
    blocks = []
    for i, rows in enumerate(bins.values()):
        balanced = _summed(columns[rows], cluster[rows])[0][:, width:]
        wide = np.zeros((len(balanced), width * len(bins)))
        wide[:, i * width : (i + 1) * width] = balanced
        blocks.append(wide)
    sums = np.concatenate(blocks)

    def statistic(totals: np.ndarray) -> np.ndarray:
        return _statistics(totals.reshape(*totals.shape[:-1], len(bins), width)).mean(axis=-2)

    drawn = replicate(sums, statistic, replicates, seed) if len(sums) > 1 else None
    return _estimates(statistic(sums.sum(axis=0)), drawn, range(len(_NAMES)), longer, len(sums))


def _compared(pairs: EvalPairs, values: Mapping[str, np.ndarray], replicates: int, seed: int) -> Comparison:
    cluster, subsets = pairs.clusters(), pairs.subsets()

    def part(rows: np.ndarray) -> dict[str, dict[str, Difference]]:
        return _differences({n: v[rows] for n, v in values.items()}, cluster[rows], replicates, seed)

    parts = {kind: {name: part(rows) for name, rows in some.items()} for kind, some in subsets.items()}
    return Comparison(part(np.arange(len(pairs))), **parts, replicates=replicates, seed=seed)


def _differences(
    values: Mapping[str, np.ndarray], cluster: np.ndarray, replicates: int, seed: int
) -> dict[str, dict[str, Difference]]:
    """By view and metric, of one part's differences [P]."""
    _, place, m = np.unique(cluster, return_inverse=True, return_counts=True)
    columns = np.stack([np.ones(len(place)), *values.values()], 1)
    sums, n = _summed(columns, cluster)
    width = columns.shape[1]

    def statistic(totals: np.ndarray) -> np.ndarray:
        halves = totals.reshape(*totals.shape[:-1], 2, width)
        return (halves[..., 1:] / halves[..., :1]).reshape(*totals.shape[:-1], -1)

    found = statistic(sums.sum(axis=0))
    drawn = replicate(sums, statistic, replicates, seed) if n > 1 else None
    views: dict[str, dict[str, Difference]] = {}
    for v, view in enumerate(VIEWS):
        weights = np.ones(len(place)) if view == "unweighted" else 1 / m[place]
        views[view] = {}
        for i, (name, value) in enumerate(values.items()):
            column = v * len(values) + i
            views[view][name] = Difference(
                float(found[column]),
                None if drawn is None else interval(drawn[:, column], effective_clusters(sums[:, v * width])),
                sign_flip(np.bincount(place, weights * value), seed=seed),
                detectable(cluster_error(value, weights, place)),
            )
    return views
