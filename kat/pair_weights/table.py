"""From pairs and the weights of their openings to the table that trainers read: drops, split, weights, bins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.config import DensityOptions, PairOptions, RunOptions
from kat.data.pair_columns import DUPLICATE, PairColumns
from kat.density.estimators import estimate_density, query_log_density
from kat.errors import InputError, MismatchError
from kat.neighbors.find import find_neighbors
from kat.pair_weights.controls import control_weights
from kat.pair_weights.split import connected, expected_leak, near_duplicates, split_groups, within
from kat.pair_weights.storage import PairWeights
from kat.pair_weights.weigh import PairWeighting, weigh_pairs
from kat.records import Density, Embeddings
from kat.statistics import BINS, density_bins, effective_sample_size

UNWEIGHTED = "its opening has no density weight"
HEAVIEST = 50


@dataclass(frozen=True, eq=False)
class OpeningWeights:
    """What a run knows of its N openings: their vectors, density (with neighbours) and weights `w` [N]."""

    embeddings: Embeddings
    density: Density
    w: np.ndarray


@dataclass(frozen=True, eq=False)
class _Openings:
    """The X openings of the pairs: `place` [X] is the run's row of each, −1 if it has none; `pairs` [X] counts those
    that are kept; `length` [X] is in the unit that `unit` names."""

    ids: list[str]
    place: np.ndarray
    pairs: np.ndarray
    length: np.ndarray
    unit: str

    def spread(self, values: np.ndarray, otherwise: float) -> np.ndarray:
        """Return values [N] of the run's openings as values [X] of these."""
        return np.where(self.place >= 0, np.asarray(values, np.float64)[self.place], otherwise)


@dataclass(frozen=True, eq=False)
class _Split:
    """`left_out` [P] says why a pair is left out, "" if it is not; `group` [X] is the group of near-duplicates of each
    opening, and `validates` [X] whether it is on the validation side."""

    left_out: np.ndarray
    group: np.ndarray
    validates: np.ndarray

    def trains(self, openings: _Openings) -> np.ndarray:
        """Return which openings [X] train: those that have kept pairs and do not validate."""
        return (openings.pairs > 0) & ~self.validates


def pair_table(
    columns: PairColumns,
    run: OpeningWeights,
    options: PairOptions,
    search: DensityOptions,
    device: str = RunOptions.device,
) -> tuple[PairWeights, dict[str, Any]]:
    """Return the table and a report of it. `search` are the options that the run's density was made with.

    Raises MismatchError for an opening without a weight unless `options` say what to do, InputError if no pair is
    left to train, and what splitting and weighing raise.
    """
    place = _places(columns, run, options)
    left_out = _left_out(columns, place, options)
    kept = left_out == ""
    if not kept.any():
        raise InputError("No pair is left: all were left out.")
    openings = _openings(columns, run, place, np.bincount(columns.opening[kept], minlength=len(place)))
    edges = _edges(run, openings, options)
    group = connected(*edges, len(place))
    split = _Split(left_out, group, _validates(openings, group, options))
    rows = np.flatnonzero(kept & ~split.validates[columns.opening])
    if not len(rows):
        raise InputError("No pair is left to train: all of them validate or were left out.")
    trains = split.trains(openings)
    w = openings.spread(run.w, 1.0)
    if options.control is not None:
        w = control_weights(options.control, w, trains, openings.length, options.seed)
    multiplicity = "pair" if options.control == "uniform" else options.multiplicity  # then every pair weighs 1
    weighting = weigh_pairs(columns.opening[rows], w, multiplicity, options.cap)
    among, leaks = _density_among(run, openings, trains, options=options, search=search, device=device)
    table = _table(columns, run, openings, split, w=w, weighting=weighting, rows=rows, among=among)
    facts = _source_facts(columns, left_out, place, openings)
    facts["split"] = _split_facts(openings, split, options) | {"leak": leaks}
    facts["split"]["leak_by_opening"] = _leak_facts(edges[0], openings, table, columns, options)
    facts["weights"] = weighting.facts(openings.length[columns.opening[rows]])
    facts["weights"] |= {"control": options.control, "length_unit": openings.unit}
    facts["bins"] = _bin_facts(table)
    facts["heaviest"] = _heaviest(table)
    return table, facts


def _places(columns: PairColumns, run: OpeningWeights, options: PairOptions) -> np.ndarray:
    """The run's row [X] of each opening, −1 where it has none."""
    rows = {opening_id: row for row, opening_id in enumerate(run.embeddings.ids)}
    place = np.asarray([rows.get(opening_id, -1) for opening_id in columns.opening_ids], np.int64)
    missing = np.flatnonzero(place < 0)
    if len(missing) and options.missing_weight == "error":
        first = int(np.argmax(columns.opening == missing[0]))
        raise MismatchError(
            f"{len(missing):,} openings of the pairs have no density weight, first {columns.opening_ids[missing[0]]} "
            f"in row {columns.row[first]:,}. Was the run made from this file? --missing_weight one or drop goes on."
        )
    return place


def _left_out(columns: PairColumns, place: np.ndarray, options: PairOptions) -> np.ndarray:
    """Why a pair is left out [P], "" if it is not."""
    reasons = np.full(len(columns), "", object)
    if options.missing_weight == "drop":
        reasons[place[columns.opening] < 0] = UNWEIGHTED
    if options.duplicates == "drop":
        reasons[columns.duplicate] = DUPLICATE
    return reasons


def _openings(columns: PairColumns, run: OpeningWeights, place: np.ndarray, pairs: np.ndarray) -> _Openings:
    tokens = run.embeddings.tokens
    if tokens is None or (place < 0).any():
        return _Openings(columns.opening_ids, place, pairs, columns.opening_chars.astype(np.float64), "characters")
    return _Openings(columns.opening_ids, place, pairs, np.asarray(tokens, np.float64)[place], "tokens")


def _edges(run: OpeningWeights, openings: _Openings, options: PairOptions) -> tuple[np.ndarray, np.ndarray]:
    """Near-duplicates among the openings that have pairs, as rows of those."""
    neighbors = run.density.neighbors
    assert neighbors is not None, "the density of a run knows its neighbours"
    if neighbors.metric != "cosine":
        sample = np.linalg.norm(np.asarray(run.embeddings.vectors[:1000]), axis=1)
        if not np.allclose(sample, 1, atol=1e-3):
            raise InputError("Vectors are not of unit length, so that no cosine follows from their distances.")
    back = np.full(len(neighbors), -1)
    searched = (openings.place >= 0) & (openings.pairs > 0)
    back[openings.place[searched]] = np.flatnonzero(searched)
    a, b = (back[end] for end in near_duplicates(neighbors, options.group_cosine))
    both = (a >= 0) & (b >= 0)
    return a[both], b[both]


def _validates(openings: _Openings, group: np.ndarray, options: PairOptions) -> np.ndarray:
    """Which openings [X] validate."""
    if options.split == "none":
        return np.zeros(len(group), bool)
    unit = group if options.split == "group" else np.arange(len(group))
    return split_groups(openings.ids, unit, openings.pairs, options.validation_share, options.seed)


def _density_among(
    run: OpeningWeights,
    openings: _Openings,
    trains: np.ndarray,
    *,
    options: PairOptions,
    search: DensityOptions,
    device: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Log density [X] of each opening among those that train (NaN where it has no vector), and the split's own leak:
    the share of openings that validate and have a near-duplicate among those that train.

    Bins of a run's own density would count the openings that validate as part of what the model was trained on.
    """
    place = openings.place
    inside, outside = (np.flatnonzero((place >= 0) & side) for side in (trains, ~trains))
    log_density = np.full(len(place), np.nan)
    if len(inside) == len(run.embeddings):
        log_density[inside] = run.density.log_values[place[inside]]
        return log_density, {}
    vectors = np.asarray(run.embeddings.vectors)
    shared: dict[str, Any] = {"metric": search.metric, "center": search.center, "device": device, "progress": True}
    k = min(run.density.k, max(len(inside) - 1, 1))
    trained = vectors[place[inside]]
    near = find_neighbors(trained, k, search=search.search, least_recall=search.least_recall, **shared)
    density = estimate_density(near, k, search.estimator)
    log_density[inside] = density.log_values
    if not len(outside):
        return log_density, {}
    asked = find_neighbors(trained, k, queries=vectors[place[outside]], **shared)
    log_density[outside] = query_log_density(asked, density)
    validates = openings.pairs[outside] > 0
    if not validates.any():
        return log_density, {}
    leaking = within(asked.distances[validates, 0], options.group_cosine)
    return log_density, {"openings": int(validates.sum()), "share": float(leaking.mean())}


def _table(
    columns: PairColumns,
    run: OpeningWeights,
    openings: _Openings,
    split: _Split,
    *,
    w: np.ndarray,
    weighting: PairWeighting,
    rows: np.ndarray,
    among: np.ndarray,
) -> PairWeights:
    """The table: `w` and `among` [X] are the openings' weights and log densities, `rows` those of the weighed pairs."""
    opening, kept = columns.opening, split.left_out == ""
    side = np.where(split.validates[opening], "validation", "train")
    factor, v = np.full(len(columns), np.nan), np.full(len(columns), np.nan)
    factor[rows], v[rows] = weighting.factor, weighting.values
    _, number = np.unique(split.group, return_inverse=True)
    return PairWeights(
        pair_id=np.asarray(columns.pair_ids, object),
        row=columns.row,
        opening_id=np.asarray(columns.opening_ids, object)[opening],
        src=np.asarray(columns.src, object),
        m=np.where(kept, openings.pairs[opening], 0),
        log_density=openings.spread(run.density.log_values, np.nan)[opening],
        w=w[opening],
        multiplicity_factor=factor,
        v=v,
        split=np.where(kept, side, "").astype(object),
        group=number[opening],
        train_log_density=among[opening],
        bin=density_bins(among, split.trains(openings))[opening],
        chosen_chars=columns.chosen_chars,
        rejected_chars=columns.rejected_chars,
        left_out=split.left_out,
    )


def _source_facts(columns: PairColumns, left_out: np.ndarray, place: np.ndarray, openings: _Openings) -> dict[str, Any]:
    return {
        "pairs": len(columns),
        "openings": len(place),
        "left_out": dict(Counter(reason for reason in left_out if reason)),
        "openings_without_weight": int((place < 0).sum()),
        "exact_duplicates": int(columns.duplicate.sum()),
        "renamed_pair_ids": columns.renamed,
        "most_pairs_of_an_opening": int(openings.pairs.max()),
    }


def _split_facts(openings: _Openings, split: _Split, options: PairOptions) -> dict[str, Any]:
    paired = openings.pairs > 0
    names, place, sizes = np.unique(split.group[paired], return_inverse=True, return_counts=True)
    pairs = np.bincount(place, openings.pairs[paired])
    largest = int(np.lexsort((pairs, sizes))[-1])
    parts = {
        name: {"pairs": int(openings.pairs[side].sum()), "openings": int((paired & side).sum())}
        for name, side in (("train", ~split.validates), ("validation", split.validates))
    }
    return parts | {
        "by": options.split,
        "seed": options.seed,
        "validation_share_asked": options.validation_share,
        "group_cosine": options.group_cosine,
        "groups": len(names),
        "groups_of_several_openings": int((sizes > 1).sum()),
        "openings_in_groups_of_several": int(sizes[sizes > 1].sum()),
        "largest_group": {"openings": int(sizes[largest]), "pairs": int(pairs[largest])},
    }


def _leak_facts(
    ends: np.ndarray, openings: _Openings, table: PairWeights, columns: PairColumns, options: PairOptions
) -> dict[str, Any]:
    """What a split by opening alone would have leaked, in expectation: by density bin, over the openings."""
    chance = expected_leak(ends, len(openings.ids), options.validation_share)
    paired = openings.pairs > 0
    bins = np.full(len(paired), -1)
    bins[columns.opening] = table.bin
    return {
        "by_bin": [_mean(chance[paired & (bins == b)]) for b in range(BINS)],
        "all": _mean(chance[paired]),
    }


def _bin_facts(table: PairWeights) -> list[dict[str, Any]]:
    """What each density bin has of the training part, and what the weights make of it."""
    bins = []
    for b in range(BINS):
        trains = (table.bin == b) & (table.split == "train")
        v = table.v[trains]
        bins.append(
            {
                "bin": b,
                "openings": len(set(table.opening_id[trains])),
                "pairs": int(trains.sum()),
                "validation_pairs": int(((table.bin == b) & (table.split == "validation")).sum()),
                "share_of_pairs": float(trains.sum() / (table.split == "train").sum()),
                "share_of_weight": float(v.sum() / np.nansum(table.v)),
                "mean_v": _mean(v),
                "ess_share": effective_sample_size(v) / len(v) if len(v) else None,
            }
        )
    return bins


def _heaviest(table: PairWeights) -> list[dict[str, Any]]:
    """The openings whose pairs weigh most, each once, heaviest first."""
    rows = np.flatnonzero(table.split == "train")
    openings: dict[str, dict[str, Any]] = {}
    for row in rows[np.argsort(-table.v[rows], kind="stable")]:
        opening_id = table.opening_id[row]
        if opening_id not in openings:
            facts = {"v": float(table.v[row]), "w": float(table.w[row]), "m": int(table.m[row])}
            openings[opening_id] = {"id": opening_id, **facts, "row": int(table.row[row]), "src": table.src[row]}
        if len(openings) == HEAVIEST:
            break
    return list(openings.values())


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
