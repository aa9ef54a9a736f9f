"""Distances to neighbours → log density. High = crowded, up to a constant that weights do not feel.

One file an estimator, with all its facts in the row `PLUGIN`. docs/estimators.md compares them on known densities and
says why the default is the default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kat.config import DensityOptions
from kat.density.dimension import intrinsic_dimension
from kat.density.noise import split_half
from kat.errors import OptionError
from kat.parameters import explained_keywords, whole_number
from kat.plugins import ESTIMATORS, check_name, load
from kat.records import Density, Embeddings, Neighbors


@dataclass(frozen=True)
class Estimator:
    """One estimator: its name, what it is, its function, and what the self-test may expect of it.

    `log_density(distances, dimension, duplicates=1)` takes a row's distances [N, k] to its k nearest distinct others,
    ascending, the intrinsic dimension and the rows that share its vector, [N] or 1, to float64 [N]; a pure function.
    `dimension(distances, duplicates)` measures the intrinsic dimension that it is given.

    `of_vectors(neighbors, k, embeddings)` is for an estimator that reads distances between unit vectors: where the
    metric is not cosine it returns what takes (dimension, duplicates) to the log density, from the vectors themselves.
    None: any distances will do.

    `stated`: the self-test states bounds for it, and only shows the others. `recovers_euclidean`: it can recover a
    density of points that are no directions.
    """

    name: str
    help: str
    log_density: Callable[..., np.ndarray]
    dimension: Callable[..., float] = intrinsic_dimension
    of_vectors: Callable[[Neighbors, int, Embeddings | None], Callable[..., np.ndarray]] | None = None
    stated: bool = False
    recovers_euclidean: bool = True


@explained_keywords
def estimate_density(
    neighbors: Neighbors,
    k: int | None = None,
    estimator: str = DensityOptions.estimator,
    embeddings: Embeddings | None = None,
) -> Density:
    """Return the log density of every row, and how much of it is noise.

    A vector that m rows share is a place m times as crowded. Duplicates thus have equal, finite and high densities,
    and duplicating a whole cluster counts like as many new points in it.

    `k` is at most the neighbours' own k, which is its default. `embeddings` [N, D] are needed only for an estimator of
    cosines where the metric was not cosine and the neighbours do not hold their source. All densities are equal where
    there is nothing to measure: one row, or duplicates of one vector.

    Raises OptionError for k < 1 or an unknown estimator.

    >>> neighbors = kat.find_neighbors(kat.encode(["hello", "hello there", "hello you", "an odd request"]), k=2)
    >>> density = kat.estimate_density(neighbors)
    >>> int(np.argmin(density))
    3
    """
    if k is not None:
        whole_number("k", k)
    check_name("estimator", estimator, ESTIMATORS)
    plugin: Estimator = load(ESTIMATORS, estimator)
    used = min(k or neighbors.k, neighbors.distinct_distances.shape[1])
    if used == 0:
        return _flat(neighbors, estimator)
    distances, duplicates = neighbors.distinct_distances[:, :used], neighbors.multiplicity
    dimension = plugin.dimension(distances, duplicates)
    if reads_vectors(estimator, neighbors.metric):
        assert plugin.of_vectors is not None
        log_density = plugin.of_vectors(neighbors, used, embeddings)
    else:
        log_density = partial(plugin.log_density, distances)
    single, values = (log_density(dimension, m) for m in (1, duplicates))
    of_half = partial(plugin.log_density, dimension=dimension)
    r, noise = split_half(neighbors.halves, used, of_half, single, duplicates)
    return Density(
        ids=neighbors.ids,
        log_values=values,
        estimator=estimator,
        k=used,
        metric=neighbors.metric,
        intrinsic_dimension=dimension,
        split_half=r,
        noise=noise,
        neighbors=neighbors,
    )


def reads_vectors(estimator: str, metric: str) -> bool:
    """Tell whether an estimator needs the vectors beside distances of this metric."""
    plugin: Estimator = load(ESTIMATORS, estimator)
    return plugin.of_vectors is not None and metric != "cosine"


def query_log_density(queries: Neighbors, among: Density) -> np.ndarray:
    """Return the log density [M] of queries, on the scale of that of the rows that they were searched among.

    Same k, estimator and intrinsic dimension; a row that equals a query is a duplicate of it. Raises OptionError for
    an estimator that would need the vectors.
    """
    if among.k == 0:
        return np.zeros(len(queries))
    plugin: Estimator = load(ESTIMATORS, among.estimator)
    if reads_vectors(among.estimator, queries.metric):
        raise OptionError(f"{plugin.name} of queries needs cosine neighbours: search with metric='cosine'.")
    distances = queries.distinct_distances[:, : among.k]
    return plugin.log_density(distances, among.intrinsic_dimension, queries.multiplicity)


def _flat(neighbors: Neighbors, estimator: str) -> Density:
    """The density of rows without distinct others: equal everywhere, and no noise measured."""
    return Density(
        ids=neighbors.ids,
        log_values=np.zeros(len(neighbors)),
        estimator=estimator,
        k=0,
        metric=neighbors.metric,
        intrinsic_dimension=float("nan"),
        neighbors=neighbors,
    )
