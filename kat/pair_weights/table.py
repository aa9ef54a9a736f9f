"""From judged pairs and the weights of their openings to the table that trainers read: drops, split, weights, bins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.config import DensityOptions, PairOptions
from kat.data.pair_columns import DUPLICATE, PairColumns
from kat.density.estimators import estimate_density, query_log_density
from kat.density.weights import effective_sample_size
from kat.errors import InputError, MismatchError
from kat.neighbors.find import find_neighbors
from kat.pair_weights.split import connected, expected_leak, near_duplicates, split_groups, within
from kat.pair_weights.storage import PairWeights
from kat.pair_weights.weigh import BINS, control_weights, density_bins, weigh_pairs
from kat.records import Density, Embeddings

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
        """Values [N] of the run's openings as values [X] of these."""
        return np.where(self.place >= 0, np.asarray(values, np.float64)[self.place], otherwise)


def pair_table(
    judged: PairColumns, run: OpeningWeights, options: PairOptions, search: DensityOptions, device: str = "auto"
) -> tuple[PairWeights, dict[str, Any]]:
    """The table and a report of it. `search` are the options that the run's density was made with.

    Raises MismatchError for an opening without a weight unless `options` say what to do, InputError if no pair is
    left to train, and what splitting and weighing raise.
    """
    place = _places(judged, run, options)
    left_out = _left_out(judged, place, options)
    kept = left_out == ""
    if not kept.any():
        raise InputError("No pair is left: all were left out.")
    openings = _openings(judged, run, place, np.bincount(judged.opening[kept], minlength=len(place)))
    edges = _edges(run, openings, options)
    group = connected(*edges, len(place))
    validates = _validates(openings, group, options)
    rows = np.flatnonzero(kept & ~validates[judged.opening])
    if not len(rows):
        raise InputError("No pair is left to train: all of them validate or were left out.")
    w = openings.spread(run.w, 1.0)
    there = (openings.pairs > 0) & ~validates
    used = w if options.control is None else control_weights(options.control, w, there, openings.length, options.seed)
    multiplicity = "pair" if options.control == "uniform" else options.multiplicity  # then every pair weighs 1
    weighting = weigh_pairs(judged.opening[rows], used, multiplicity, options.cap)
    among, leaks = _density_among(run, openings, there, options, search, device)
    table = _table(judged, run, openings, left_out, validates, group, used, weighting, rows, among)
    facts = _source_facts(judged, left_out, place, openings)
    facts["split"] = _split_facts(openings, group, validates, options) | {"leak": leaks}
    facts["split"]["leak_by_opening"] = _leak_facts(edges[0], openings, table, judged, options)
    facts["weights"] = weighting.facts(openings.length[judged.opening[rows]])
    facts["weights"] |= {"control": options.control, "length_unit": openings.unit}
    facts["bins"] = _bin_facts(table)
    facts["heaviest"] = _heaviest(table)
    return table, facts


def _places(judged: PairColumns, run: OpeningWeights, options: PairOptions) -> np.ndarray:
    """The run's row [X] of each opening, −1 where it has none."""
    known = {one: i for i, one in enumerate(run.embeddings.ids)}
    place = np.asarray([known.get(one, -1) for one in judged.opening_ids], np.int64)
    missing = np.flatnonzero(place < 0)
    if len(missing) and options.missing_weight == "error":
        first = int(np.argmax(judged.opening == missing[0]))
        raise MismatchError(
            f"{len(missing):,} openings of the pairs have no density weight, first {judged.opening_ids[missing[0]]} "
            f"in row {judged.row[first]:,}. Was the run made from this file? --missing_weight one or drop goes on."
        )
    return place


def _left_out(judged: PairColumns, place: np.ndarray, options: PairOptions) -> np.ndarray:
    """Why a pair is left out [P], "" if it is not."""
    found = np.full(len(judged), "", object)
    if options.missing_weight == "drop":
        found[place[judged.opening] < 0] = UNWEIGHTED
    if options.duplicates == "drop":
        found[judged.duplicate] = DUPLICATE
    return found


def _openings(judged: PairColumns, run: OpeningWeights, place: np.ndarray, pairs: np.ndarray) -> _Openings:
    tokens = run.embeddings.tokens
    if tokens is None or (place < 0).any():
        return _Openings(judged.opening_ids, place, pairs, judged.opening_chars.astype(np.float64), "characters")
    return _Openings(judged.opening_ids, place, pairs, np.asarray(tokens, np.float64)[place], "tokens")


def _edges(run: OpeningWeights, openings: _Openings, options: PairOptions) -> tuple[np.ndarray, np.ndarray]:
    """Near-duplicates among the openings that have pairs, as rows of those."""
    neighbors = run.density.neighbors
    if neighbors.metric != "cosine":
        sample = np.linalg.norm(np.asarray(run.embeddings.vectors[:1000]), axis=1)
        if not np.allclose(sample, 1, atol=1e-3):
            raise InputError("Vectors are not of unit length, so that no cosine follows from their distances.")
    back = np.full(len(neighbors), -1)
    there = (openings.place >= 0) & (openings.pairs > 0)
    back[openings.place[there]] = np.flatnonzero(there)
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
    options: PairOptions,
    search: DensityOptions,
    device: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Log density [X] of each opening among those that train (NaN where it has no vector), and the split's own leak:
    the share of openings that validate and have a near-duplicate among those that train."""
    place = openings.place
    inside, outside = (np.flatnonzero((place >= 0) & some) for some in (trains, ~trains))
    found = np.full(len(place), np.nan)
    if len(inside) == len(run.embeddings):
        found[inside] = run.density.log_values[place[inside]]
        return found, {}
    vectors = np.asarray(run.embeddings.vectors)
    how = {"metric": search.metric, "center": search.center, "device": device, "progress": True}
    k = min(run.density.k, max(len(inside) - 1, 1))
    mine = vectors[place[inside]]
    near = find_neighbors(mine, k, search=search.search, least_recall=search.least_recall, **how)
    density = estimate_density(near, k, search.estimator)
    found[inside] = density.log_values
    if not len(outside):
        return found, {}
    asked = find_neighbors(mine, k, queries=vectors[place[outside]], **how)
    found[outside] = query_log_density(asked, density)
    validates = openings.pairs[outside] > 0
    if not validates.any():
        return found, {}
    leaking = within(asked.distances[validates, 0], options.group_cosine)
    return found, {"openings": int(validates.sum()), "share": float(leaking.mean())}


def _table(judged, run, openings, left_out, validates, group, w, weighting, rows, among) -> PairWeights:
    n = len(judged)
    split = np.where(left_out != "", "", np.where(validates[judged.opening], "validation", "train")).astype(object)
    m, factor, v = openings.pairs[judged.opening], np.full(n, np.nan), np.full(n, np.nan)
    factor[rows], v[rows] = weighting.factor, weighting.values
    _, number = np.unique(group, return_inverse=True)
    trains = (openings.pairs > 0) & ~validates
    return PairWeights(
        pair_id=np.asarray(judged.pair_ids, object),
        row=judged.row,
        opening_id=np.asarray(judged.opening_ids, object)[judged.opening],
        src=np.asarray(judged.src, object),
        m=np.where(left_out == "", m, 0),
        log_density=openings.spread(run.density.log_values, np.nan)[judged.opening],
        w=w[judged.opening],
        multiplicity_factor=factor,
        v=v,
        split=split,
        group=number[judged.opening],
        train_log_density=among[judged.opening],
        bin=density_bins(among, trains)[judged.opening],
        chosen_chars=judged.chosen_chars,
        rejected_chars=judged.rejected_chars,
        left_out=left_out,
    )


def _source_facts(judged: PairColumns, left_out: np.ndarray, place: np.ndarray, openings: _Openings) -> dict[str, Any]:
    return {
        "pairs": len(judged),
        "openings": len(place),
        "left_out": dict(Counter(reason for reason in left_out if reason)),
        "openings_without_weight": int((place < 0).sum()),
        "exact_duplicates": int(judged.duplicate.sum()),
        "renamed_pair_ids": judged.renamed,
        "most_pairs_of_an_opening": int(openings.pairs.max()),
    }


def _split_facts(openings: _Openings, group: np.ndarray, validates: np.ndarray, options: PairOptions) -> dict[str, Any]:
    there = openings.pairs > 0
    names, place, sizes = np.unique(group[there], return_inverse=True, return_counts=True)
    pairs = np.bincount(place, openings.pairs[there])
    largest = int(np.lexsort((pairs, sizes))[-1])
    parts = {
        name: {"pairs": int(openings.pairs[some].sum()), "openings": int((there & some).sum())}
        for name, some in (("train", ~validates), ("validation", validates))
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
    ends: np.ndarray, openings: _Openings, table: PairWeights, judged: PairColumns, options: PairOptions
) -> dict[str, Any]:
    """What a split by opening alone would have leaked, in expectation: by density bin, over the openings."""
    chance = expected_leak(ends, len(openings.ids), options.validation_share)
    there = openings.pairs > 0
    bins = np.full(len(there), -1)
    bins[judged.opening] = table.bin
    return {
        "by_bin": [_mean(chance[there & (bins == b)]) for b in range(BINS)],
        "all": _mean(chance[there]),
    }


def _bin_facts(table: PairWeights) -> list[dict[str, Any]]:
    """What each density bin has of the training part, and what the weights make of it."""
    found = []
    for b in range(BINS):
        some = (table.bin == b) & (table.split == "train")
        v = table.v[some]
        found.append(
            {
                "bin": b,
                "openings": len(set(table.opening_id[some])),
                "pairs": int(some.sum()),
                "validation_pairs": int(((table.bin == b) & (table.split == "validation")).sum()),
                "share_of_pairs": float(some.sum() / (table.split == "train").sum()),
                "share_of_weight": float(v.sum() / np.nansum(table.v)),
                "mean_v": _mean(v),
                "ess_share": effective_sample_size(v) / len(v) if len(v) else None,
            }
        )
    return found


def _heaviest(table: PairWeights) -> list[dict[str, Any]]:
    """The openings whose pairs weigh most, each once, heaviest first."""
    rows = np.flatnonzero(table.split == "train")
    found: dict[str, dict[str, Any]] = {}
    for row in rows[np.argsort(-table.v[rows], kind="stable")]:
        one = table.opening_id[row]
        if one not in found:
            facts = {"v": float(table.v[row]), "w": float(table.w[row]), "m": int(table.m[row])}
            found[one] = {"id": one, **facts, "row": int(table.row[row]), "src": table.src[row]}
        if len(found) == HEAVIEST:
            break
    return list(found.values())


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
