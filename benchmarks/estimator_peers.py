"""Density estimators that kat does not have, measured beside its own by bench_estimators.py. All take unit vectors."""

from __future__ import annotations

import warnings

import numpy as np

from kat.density.dimension import intrinsic_dimension
from kat.density.estimators import estimate_density
from kat.neighbors.find import find_neighbors
from kat.plugins import ESTIMATORS, names
from kat.records import Neighbors

KS = (10, 20, 50)
K = 20
_BLOCK = 1024


def all_densities(x: np.ndarray, seed: int, peers: bool = True) -> dict[str, np.ndarray]:
    """Log density [N] of every row of x [N, D] by every estimator, by name."""
    neighbors = find_neighbors(x, max(KS))
    densities = {
        f"{name} k={k}": estimate_density(neighbors, k, name).log_values for name in names(ESTIMATORS) for k in KS
    }
    if peers:
        densities |= peer_densities(x, x, np.arange(len(x)), neighbors.distinct_distances, seed)
    return densities


def peer_densities(
    queries: np.ndarray, x: np.ndarray, own: np.ndarray, distances: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Log density [Q] of queries among x by the peers. own [Q] is a query's row in x, or −1; it does not count.

    `distances` [N, k] of x sets the scales. KDE: a Gaussian kernel, h = median distance to the 20th neighbour / √d (the
    kernel's mass lies about h√d away), or Scott's h = s · N^(−1 / (d + 4)), s² the variance a dimension, d the maximum
    likelihood dimension. Ball: points within the median distance to the 20th neighbour. Cluster: size of the k-means
    cluster, √N of them.
    """
    radius = float(np.median(distances[:, min(K, distances.shape[1]) - 1]))
    d = intrinsic_dimension(distances[:, :K])
    scott = np.sqrt(x.var(axis=0).sum() / d) * len(x) ** (-1 / (d + 4))
    near, wide, count = _kernels(queries, x, own, (radius / np.sqrt(d), float(scott)), radius)
    return {
        "KDE, h = r20/√d": near,
        "KDE, Scott": wide,
        "ball count": np.log(np.maximum(count, 0.5)),
        "cluster size": _cluster_sizes(queries, x, seed),
    }


def _kernels(
    queries: np.ndarray, x: np.ndarray, own: np.ndarray, widths: tuple[float, float], radius: float
) -> list[np.ndarray]:
    """Log sums of two Gaussian kernels, and points within the radius, [Q] each."""
    import torch

    reference, parts = torch.from_numpy(x), []
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        squares = (2 - 2 * torch.from_numpy(queries[rows]) @ reference.T).clamp_(min=0)
        mine = np.flatnonzero(own[rows] >= 0)
        squares[torch.from_numpy(mine), torch.from_numpy(own[rows][mine])] = torch.inf
        sums = [torch.logsumexp(squares * (-0.5 / h**2), dim=1).double() for h in widths]
        parts.append(torch.stack([*sums, (squares <= radius**2).sum(dim=1).double()]))
    return list(torch.cat(parts, dim=1).numpy())


def _cluster_sizes(queries: np.ndarray, x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    model = MiniBatchKMeans(max(2, round(len(x) ** 0.5)), max_iter=20, n_init=3, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):  # its threads wait for each other on a busy machine
        warnings.simplefilter("ignore")
        sizes = np.bincount(model.fit_predict(x), minlength=model.n_clusters)
    return np.log(np.maximum(sizes[model.predict(queries)], 0.5))


def split_halves_of_peers(x: np.ndarray, seed: int, asked: int = 4000) -> dict[str, float]:
    """Correlation of log density between two random halves of x, by peer."""
    rng = np.random.default_rng(seed)
    order, rows = rng.permutation(len(x)), rng.permutation(len(x))[:asked]
    halves = []
    for half in (order[::2], order[1::2]):
        place = np.full(len(x), -1)
        place[half] = np.arange(len(half))
        distances = find_neighbors(x[half], K).distinct_distances
        halves.append(peer_densities(x[rows], x[half], place[rows], distances, seed))
    return {name: float(np.corrcoef(one, halves[1][name])[0, 1]) for name, one in halves[0].items()}


def scaling_dimension(full: Neighbors, thin: Neighbors, rows: np.ndarray, times: float, k: int) -> float:
    """log(times) / mean growth of the log mean distance, when `times` as many points are thinned to one in `times`.

    This is the d for which log(m) / d is what m times as many distinct points add. `thin` holds rows `rows` of `full`.
    """
    one, two = (np.log(n.distinct_distances[:, :k].mean(axis=1, dtype=np.float64)) for n in (full, thin))
    return float(np.log(times) / (two - one[rows]).mean())
