"""The weights of a table's training pairs as its options say: density, groups or a control; evened out; blended."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kat.data.columns import SOURCE
from kat.data.pair_columns import PairColumns
from kat.data.texts import CodedTexts
from kat.pair_config import PairOptions, column_of
from kat.pair_weights.clusters import cluster_openings
from kat.pair_weights.controls import DRAWS, control_weights, permuted
from kat.pair_weights.weigh import PairWeighting, blend_weights, even_out, group_weights, multiplicity_factor

CLUSTER = "cluster"
"""The name of strata that are clusters of openings, where a column's could stand."""


@dataclass(frozen=True, eq=False)
class TrainingPairs:
    """The P pairs that train, as `rows` [P] of the source, and what is known of the X openings.

    `w` [X] are their density weights, `trains` [X] which of them train, `length` [X] their lengths. `vectors` [N, D]
    are a run's, `place` [X] the row of each opening there, −1 if it has none. `ess` and `cap` bound weights by group,
    as they bounded w.
    """

    columns: PairColumns
    rows: np.ndarray
    w: np.ndarray
    trains: np.ndarray
    length: np.ndarray
    vectors: np.ndarray
    place: np.ndarray
    ess: float
    cap: float
    _strata: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def opening(self) -> np.ndarray:
        """The opening [P] of each pair."""
        return self.columns.opening[self.rows]

    def labels(self, name: str) -> CodedTexts:
        """Return the value [P] of a column of the source for each pair."""
        return self._column(name).take(self.rows)

    def strata(self, name: str) -> np.ndarray:
        """Return the number [P] of the value of a column of the source for each pair."""
        if name not in self._strata:
            self._strata[name] = self._column(name).distinct()[1]
        return self._strata[name][self.rows]

    def _column(self, name: str) -> CodedTexts:
        return self.columns.src if name == SOURCE else self.columns.labels[name]


def label_columns(options: PairOptions) -> tuple[str, ...]:
    """Return the columns of the source that the options name, each once."""
    named = map(column_of, (options.smooth, options.within, options.groups, options.task))
    return tuple(dict.fromkeys(name for name in named if name is not None and name != CLUSTER))


def opening_clusters(pairs: TrainingPairs, options: PairOptions) -> np.ndarray | None:
    """Return the cluster [X] of each opening, −1 for one without a vector; None where the options ask for none."""
    if CLUSTER not in (options.smooth, options.within):
        return None
    known = np.flatnonzero(pairs.place >= 0)
    clusters = np.full(len(pairs.place), -1, np.int64)
    ids = pairs.columns.opening_ids.take(known)
    vectors = np.asarray(pairs.vectors)[pairs.place[known]]
    among = pairs.trains[known]
    clusters[known] = cluster_openings(vectors, ids, options.clusters, options.seed, among if among.any() else None)
    return clusters


def weigh_table(
    pairs: TrainingPairs, options: PairOptions, clusters: np.ndarray | None, *, draws: int = DRAWS
) -> tuple[PairWeighting, dict[str, Any]]:
    """Return the weights of the pairs that train, and what the report says of how they came about.

    `draws` is how many permutations are drawn for the control of that name.

    Raises what `kat.pair_weights.weigh.weigh_pairs` and `kat.pair_weights.controls.control_weights` raise.
    """
    multiplicity = "pair" if options.control == "uniform" else options.multiplicity  # then every pair weighs 1
    facts: dict[str, Any] = {
        "control": options.control,
        "smooth": column_of(options.smooth),
        "within": column_of(options.within),
        "groups": column_of(options.groups),
    }
    opening, factor = pairs.opening, multiplicity_factor(pairs.opening, multiplicity)
    if facts["groups"] is not None and options.control not in ("uniform", "multiplicity", "length"):
        group = pairs.strata(facts["groups"])
        w, facts["group_temperature"] = group_weights(group, pairs.ess, pairs.cap)
        moving = group
    else:
        opening_w = pairs.w
        if options.control is not None:
            opening_w = control_weights(options.control, pairs.w, pairs.trains, pairs.length)
        w, moving = opening_w[opening], None
    strata = {
        "smooth": _strata(pairs, facts["smooth"], clusters),
        "within": _strata(pairs, facts["within"], clusters),
    }
    u = even_out(w, factor, **strata)
    blended = partial(blend_weights, multiplicity=multiplicity, cap=options.cap, blend=options.blend)
    weighting = blended(u, opening, w)
    if options.control == "permuted":
        facts["ess_to_match"] = weighting.ess_pairs
        moved = strata["smooth"] if strata["smooth"] is not None else moving
        u = permuted(u, opening, factor, options.control_seed, smooth=moved, within=strata["within"], draws=draws)
        weighting = blended(u, opening, w)
    if clusters is not None:
        facts["clusters"] = len(np.unique(clusters[clusters >= 0]))
    return weighting, facts


def _strata(pairs: TrainingPairs, name: str | None, clusters: np.ndarray | None) -> np.ndarray | None:
    if name is None:
        return None
    if name == CLUSTER:
        assert clusters is not None, "clusters are found where they are named"
        return clusters[pairs.opening]
    return pairs.strata(name)
