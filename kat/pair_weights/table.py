"""From pairs and the weights of their openings to the table that trainers read: drops, split, weights, bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.config import DensityOptions, RunOptions
from kat.data.columns import SOURCE
from kat.data.pair_columns import DUPLICATE, PairColumns
from kat.data.texts import CodedTexts, coded_texts, rows_of
from kat.density.estimators import estimate_density, query_log_density, reads_vectors
from kat.errors import InputError, MismatchError
from kat.neighbors.among import neighbors_among
from kat.neighbors.find import find_neighbors
from kat.pair_config import PairOptions
from kat.pair_weights.duplicates import JACCARD, Sketches, SketchTable
from kat.pair_weights.facts import bin_facts, heaviest, mean, pay_facts, split_facts, split_warnings, weight_warnings
from kat.pair_weights.split import connected, expected_leak, near_duplicates, split_groups, within
from kat.pair_weights.storage import PairWeights
from kat.pair_weights.weigh import PairWeighting
from kat.pair_weights.weighting import TrainingPairs, label_columns, opening_clusters, weigh_table
from kat.records import Density, Embeddings, Neighbors
from kat.statistics import BINS, density_bins

UNWEIGHTED = "its opening has no density weight"
_REASONS, _SIDES = ("", UNWEIGHTED, DUPLICATE), ("", "train", "validation")


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

    ids: Sequence[str]
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

    left_out: CodedTexts
    group: np.ndarray
    validates: np.ndarray

    def trains(self, openings: _Openings) -> np.ndarray:
        """Return which openings [X] train: those that have kept pairs and do not validate."""
        return (openings.pairs > 0) & ~self.validates


def pair_table(
    columns: PairColumns,
    run: OpeningWeights,
    texts: Sketches,
    options: PairOptions,
    search: DensityOptions,
    *,
    device: str = RunOptions.device,
) -> tuple[PairWeights, dict[str, Any]]:
    """Return the table and a report of it. `search` are the options that the run's density was made with; `texts`
    holds the openings' sketches, and is not asked where `options` name a cosine for near-duplicates.

    Raises MismatchError for an opening without a weight unless `options` say what to do, InputError if no pair is
    left to train, and what splitting and weighing raise.
    """
    place = _places(columns, run, options)
    left_out = _left_out(columns, place, options)
    kept = left_out.codes == 0
    if not kept.any():
        raise InputError("No pair is left: all were left out.")
    openings = _openings(columns, run, place, np.bincount(columns.opening[kept], minlength=len(place)))
    sketches = texts.table(openings.ids) if options.group_cosine is None else None
    edges = _edges(run, openings, sketches, options)
    group = connected(*edges, len(place))
    split = _Split(left_out, group, _validates(openings, group, options))
    rows = np.flatnonzero(kept & ~split.validates[columns.opening])
    if not len(rows):
        raise InputError("No pair is left to train: all of them validate or were left out.")
    trains = split.trains(openings)
    training = TrainingPairs(
        columns=columns,
        rows=rows,
        w=openings.spread(run.w, 1.0),
        trains=trains,
        length=openings.length,
        vectors=run.embeddings.vectors,
        place=place,
        ess=search.ess,
        cap=search.cap,
    )
    clusters = opening_clusters(training, options)
    weighting, weighting_facts = weigh_table(training, options, clusters)
    among, asked = _density_among(run, openings, trains, search=search, device=device)
    leaks = _own_leak(asked, openings, trains, edges=edges, sketches=sketches, options=options)
    table = _table(training, run, openings, split, weighting=weighting, among=among, clusters=clusters)
    facts = _source_facts(columns, left_out, place, openings)
    facts["split"] = split_facts(openings.pairs, split.group, split.validates, options) | {"leak": leaks}
    facts["split"]["leak_by_opening"] = _leak_facts(edges[0], openings, table, columns, options)
    facts["weights"] = weighting.facts(openings.length[columns.opening[rows]])
    facts["weights"] |= weighting_facts | {"length_unit": openings.unit}
    facts["bins"] = bin_facts(table)
    named = {name: training.labels(name) for name in dict.fromkeys((SOURCE, *label_columns(options)))}
    facts["pays"] = pay_facts(named, weighting.values)
    facts["heaviest"] = heaviest(table)
    facts["warnings"] = split_warnings(facts) + weight_warnings(facts)
    return table, facts


def _places(columns: PairColumns, run: OpeningWeights, options: PairOptions) -> np.ndarray:
    """The run's row [X] of each opening, −1 where it has none."""
    place = rows_of(columns.opening_ids, run.embeddings.ids)
    missing = np.flatnonzero(place < 0)
    if len(missing) and options.missing_weight == "error":
        first = int(np.argmax(columns.opening == missing[0]))
        raise MismatchError(
            f"{len(missing):,} openings of the pairs have no density weight, first {columns.opening_ids[missing[0]]} "
            f"in row {columns.row[first]:,}. Was the run made from this file? --missing_weight one or drop goes on."
        )
    return place


def _left_out(columns: PairColumns, place: np.ndarray, options: PairOptions) -> CodedTexts:
    """Why a pair is left out [P], "" if it is not."""
    reasons = np.zeros(len(columns), np.int8)
    if options.missing_weight == "drop":
        reasons[place[columns.opening] < 0] = _REASONS.index(UNWEIGHTED)
    if options.duplicates == "drop":
        reasons[columns.duplicate] = _REASONS.index(DUPLICATE)
    return coded_texts(reasons, _REASONS)


def _openings(columns: PairColumns, run: OpeningWeights, place: np.ndarray, pairs: np.ndarray) -> _Openings:
    tokens = run.embeddings.tokens
    if tokens is None or (place < 0).any():
        return _Openings(columns.opening_ids, place, pairs, columns.opening_chars.astype(np.float64), "characters")
    return _Openings(columns.opening_ids, place, pairs, np.asarray(tokens, np.float64)[place], "tokens")


def _edges(
    run: OpeningWeights, openings: _Openings, sketches: SketchTable | None, options: PairOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Near-duplicates among the openings that have pairs, as rows of those: by their text, or by a cosine."""
    if options.group_cosine is None:
        assert sketches is not None, "without a cosine the texts decide"
        a, b = sketches.near_duplicates()
        both = (openings.pairs[a] > 0) & (openings.pairs[b] > 0)
        return a[both], b[both]
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
    run: OpeningWeights, openings: _Openings, trains: np.ndarray, *, search: DensityOptions, device: str
) -> tuple[np.ndarray, Neighbors | None]:
    """Log density [X] of each opening among those that train (NaN where it has no vector), and of those that do not
    train their neighbours among those that do.

    Bins of a run's own density would count the openings that validate as part of what the model was trained on.
    """
    place = openings.place
    inside, outside = _sides(openings, trains)
    log_density = np.full(len(place), np.nan)
    if len(inside) == len(run.embeddings):
        log_density[inside] = run.density.log_values[place[inside]]
        return log_density, None
    vectors, near = run.embeddings.vectors, run.density.neighbors
    assert near is not None, "the density of a run knows its neighbours"
    k = min(run.density.k, max(len(inside) - 1, 1))
    how: dict[str, Any] = {"device": device, "progress": True}
    if search.center or reads_vectors(search.estimator, near.metric):
        # Other rows have another mean to take off, and an estimator that reads vectors wants neighbours of its own.
        how |= {"center": search.center, "metric": search.metric}
        trained = np.asarray(vectors)[place[inside]]
        ours = find_neighbors(trained, k, search=search.search, least_recall=search.least_recall, **how)
        asked = find_neighbors(trained, k, queries=vectors[place[outside]], **how) if len(outside) else None
    else:
        trained = place[inside]
        ours = neighbors_among(near, trained, trained, k, vectors=vectors, **how)
        asked = neighbors_among(near, trained, place[outside], k, vectors=vectors, **how) if len(outside) else None
    density = estimate_density(ours, k, search.estimator)
    log_density[inside] = density.log_values
    if asked is not None:
        log_density[outside] = query_log_density(asked, density)
    return log_density, asked


def _sides(openings: _Openings, trains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The openings with vectors that train, and the others with vectors, as rows of the openings in the run's order."""
    inside, outside = (np.flatnonzero((openings.place >= 0) & side) for side in (trains, ~trains))
    return inside[np.argsort(openings.place[inside])], outside[np.argsort(openings.place[outside])]


def _own_leak(
    asked: Neighbors | None,
    openings: _Openings,
    trains: np.ndarray,
    *,
    edges: tuple[np.ndarray, np.ndarray],
    sketches: SketchTable | None,
    options: PairOptions,
) -> dict[str, Any]:
    """The split's own leak: the share of openings that validate and have a near-duplicate among those that train.

    Looked for among what `asked` found nearest as well, so that it is more than the groups repeated.
    """
    inside, outside = _sides(openings, trains)
    validates = openings.pairs[outside] > 0
    if asked is None or not validates.any():
        return {}
    leaking = np.zeros(validates.sum(), bool)
    if options.group_cosine is not None:
        leaking[:] = within(asked.distances[validates, 0], options.group_cosine)
    else:
        assert sketches is not None, "without a cosine the texts decide"
        near = inside[asked.indices[validates]]
        own = np.repeat(outside[validates], near.shape[1])
        alike = sketches.jaccard(own, near.ravel()).reshape(near.shape) >= JACCARD
        leaking[:] = alike.any(axis=1) | np.isin(outside[validates], edges[0][trains[edges[1]]])
    return {"openings": int(validates.sum()), "share": float(leaking.mean())}


def _table(
    training: TrainingPairs,
    run: OpeningWeights,
    openings: _Openings,
    split: _Split,
    *,
    weighting: PairWeighting,
    among: np.ndarray,
    clusters: np.ndarray | None,
) -> PairWeights:
    """The table: `among` and `clusters` [X] are the openings' log densities and clusters."""
    columns, rows = training.columns, training.rows
    opening, kept = columns.opening, split.left_out.codes == 0
    side = np.where(kept, 1 + split.validates[opening].astype(np.int8), 0)
    factor, u, v = (np.full(len(columns), np.nan) for _ in range(3))
    factor[rows], u[rows], v[rows] = weighting.factor, weighting.u, weighting.values
    _, number = np.unique(split.group, return_inverse=True)
    texts: dict[str, Any] = {  # become arrays when they are read as such
        "pair_id": columns.pair_ids,
        "opening_id": CodedTexts(opening, columns.opening_ids),
        "src": columns.src,
        "split": coded_texts(side, _SIDES),
        "left_out": split.left_out,
    }
    return PairWeights(
        **texts,
        row=columns.row,
        m=np.where(kept, openings.pairs[opening], 0),
        log_density=openings.spread(run.density.log_values, np.nan)[opening],
        w=training.w[opening],
        multiplicity_factor=factor,
        u=u,
        v=v,
        group=number[opening],
        train_log_density=among[opening],
        bin=density_bins(among, split.trains(openings))[opening],
        chosen_chars=columns.chosen_chars,
        rejected_chars=columns.rejected_chars,
        cluster=None if clusters is None else clusters[opening],
    )


def _source_facts(columns: PairColumns, left_out: CodedTexts, place: np.ndarray, openings: _Openings) -> dict[str, Any]:
    reasons, first, counts = np.unique(left_out.codes, return_index=True, return_counts=True)
    met = [(_REASONS[reasons[i]], int(counts[i])) for i in np.argsort(first) if reasons[i]]
    return {
        "pairs": len(columns),
        "openings": len(place),
        "left_out": dict(met),
        "openings_without_weight": int((place < 0).sum()),
        "exact_duplicates": int(columns.duplicate.sum()),
        "renamed_pair_ids": columns.renamed,
        "most_pairs_of_an_opening": int(openings.pairs.max()),
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
        "by_bin": [mean(chance[paired & (bins == b)]) for b in range(BINS)],
        "all": mean(chance[paired]),
    }
