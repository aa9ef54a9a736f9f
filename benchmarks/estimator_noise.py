"""Noise and dimension: what kat.weigh does to structureless data, how well it knows its noise, and which d to use."""

from __future__ import annotations

from collections.abc import Callable

import estimator_data as data
import estimator_peers as peers
import numpy as np
from estimator_tables import ANY_TEMPERATURE, Sizes, spread, table, weights_of

from kat.density.dimension import intrinsic_dimension, two_nn
from kat.density.estimators import estimate_density
from kat.density.weights import weigh
from kat.neighbors.find import find_neighbors
from kat.plugins import ESTIMATORS, load_all
from kat.records import Density, Neighbors

OWN = load_all(ESTIMATORS)
"""kat's estimators by name."""


def measure_structureless(sizes: Sizes) -> None:
    """What kat.weigh gives, with no limit on T but the noise, where every weight but 1 is wrong."""
    samples: dict[str, Callable[[int, np.random.Generator], data.Sample]]
    samples = {f"sphere in {d} columns": lambda n, g, d=d: data.sphere(d, n, g) for d in sizes.columns}
    samples["shuffled columns"] = lambda n, g: data.shuffled(n, g)
    samples["shuffled columns, standardised"] = lambda n, g: data.shuffled(n, g, standard=True)
    by_name: dict[str, dict[str, list]] = {name: {} for name in OWN}
    for label, make in samples.items():
        for n in sizes.copies_of_n:
            for seed in range(sizes.seeds if n < 20_000 else min(3, sizes.seeds)):
                neighbors = find_neighbors(make(n, np.random.default_rng(seed)).x, peers.K)
                for name in OWN:
                    by_name[name].setdefault(f"{label}, N = {n:,}", []).append(noise_of(neighbors, name))
    for name, rows in by_name.items():
        cells = {
            label: [spread(v, p) for v, p in zip(zip(*all_seeds, strict=True), (2, 5, 2, 2, 1), strict=True)]
            for label, all_seeds in rows.items()
        }
        table(f"Structureless data, {name}, k = 20", ("r", "σ²", "T used", "ESS/N", "T for ESS 0.5"), cells)


def noise_of(neighbors: Neighbors, estimator: str) -> tuple[float, ...]:
    density = estimate_density(neighbors, peers.K, estimator)
    weights = weigh(density, max_temperature=ANY_TEMPERATURE)
    return (
        density.split_half,
        density.noise,
        weights.temperature,
        weights.ess_share,
        weights_of(density.log_values)[1],
    )


def measure_split_half(sizes: Sizes) -> None:
    """The claimed noise (1 − r) · var beside the real one: the estimate's variance over samples, at fixed places."""
    sources = {f"d = {d}, {'equal' if e else 'unequal'}": (d, e, 1) for d in (2, 8, 16, 40) for e in (True, False)}
    sources["d = 16, equal, copies"] = 16, True, 20
    rows: dict[int, dict[str, list[str]]] = {}
    for label, (d, equal, most) in sources.items():
        ratios = noise_ratios(data.mixture(d, np.random.default_rng(d), equal), most, sizes)
        for name in OWN:
            for k in peers.KS:
                rows.setdefault(k, {})[f"{label}, {name}"] = [f"{v:.2f}" for v in ratios[name, k]]
    heads = ("r", "kat's claim", "from k in each half", "½ var(difference)", "residual")
    for k in peers.KS:
        table(f"Noise at k = {k}, as a multiple of the real noise", heads, rows[k])


def noise_ratios(source: data.Mixture, most: int, sizes: Sizes) -> dict[tuple[str, int], np.ndarray]:
    """By estimator and k: r; then, over the real noise, kat's claim, (1 − r) · var with k neighbours in each half and
    the plain correlation, half the variance of the halves' difference, and the residual var(log density − best
    monotone fit of the truth).

    With `most` > 1 every tenth point stands 2 to `most` times.
    """
    asked = source.draw(max(200, sizes.n // 5), np.random.default_rng(99)).x
    at: dict[tuple[str, int], list] = {}
    claims: dict[tuple[str, int], list] = {}
    for seed in range(sizes.replicates):
        rng = np.random.default_rng(seed)
        drawn = source.draw(sizes.n, rng)
        times = np.where(rng.random(sizes.n) < 0.1, rng.integers(2, most + 1, sizes.n), 1) if most > 1 else 1
        row = np.repeat(np.arange(sizes.n), times)
        neighbors = find_neighbors(drawn.x[row], max(peers.KS))
        distances = find_neighbors(drawn.x, max(peers.KS), queries=asked).distinct_distances
        for key in [(name, k) for name in OWN for k in peers.KS]:
            density = estimate_density(neighbors, key[1], key[0])
            at.setdefault(key, []).append(OWN[key[0]].log_density(distances[:, : key[1]], density.intrinsic_dimension))
            claims.setdefault(key, []).append(claims_of(density, drawn.truth[row]))
    ratios = {}
    for key, values in at.items():
        level = np.asarray(values) - np.mean(values, axis=1, keepdims=True)  # weights do not feel a shift of all
        real = float(np.var(level, axis=0, ddof=1).mean())
        ratios[key] = np.mean(claims[key], axis=0) / [1, *[real] * 4]
    return ratios


def claims_of(density: Density, truth: np.ndarray) -> tuple[float, ...]:
    from sklearn.isotonic import isotonic_regression

    sides = density.neighbors.halves.first, density.neighbors.halves.second
    one, two = (OWN[density.estimator].log_density(s[:, : density.k], density.intrinsic_dimension) for s in sides)
    ordered = density.log_values[np.argsort(truth, kind="stable")]
    distances = np.unique(density.neighbors.distinct_distances[:, : density.k], axis=0)  # duplicates share them
    once = np.var(OWN[density.estimator].log_density(distances, density.intrinsic_dimension))
    claims = density.noise, (1 - max(0.0, float(np.corrcoef(one, two)[0, 1]))) * once, np.var(one - two) / 2
    residual = np.var(ordered - isotonic_regression(ordered))
    return density.split_half, *claims, residual


def measure_dimension(sizes: Sizes, real: dict[str, np.ndarray]) -> None:
    """The d for which log(m) / d is what m times as many points add, measured by thinning, and estimates of it."""
    clouds = {f"mixture, d = {d}": data.known(d, True, sizes.n, np.random.default_rng(0)).x for d in (2, 8, 16, 40)}
    clouds |= {f"sphere, d = {d}": data.sphere(d + 1, sizes.n, np.random.default_rng(0)).x for d in (2, 8, 16)}
    clouds["mixture, d = 16, near copies"] = data.copies(0.1, sizes.n, np.random.default_rng(0)).x
    rows = {}
    for name, cloud in (clouds | real).items():
        x = cloud[np.sort(np.unique(cloud, axis=0, return_index=True)[1])]
        full = find_neighbors(x, max(peers.KS))
        measured = [thinned(x, full, k, m) for k in peers.KS for m in (2, 4)]
        likely = [intrinsic_dimension(full.distinct_distances[:, :k]) for k in peers.KS]
        rows[f"{name} ({len(x):,})"] = [f"{v:.1f}" for v in (*measured, two_nn(full.distinct_distances), *likely)]
    heads = [f"thinned by {m}, k = {k}" for k in peers.KS for m in (2, 4)]
    heads += ["TwoNN", *(f"ML, k = {k}" for k in peers.KS)]
    table("Dimension: measured by thinning, beside estimates (distinct vectors in brackets)", heads, rows)


def thinned(x: np.ndarray, full: Neighbors, k: int, times: int, draws: int = 3) -> float:
    """The mean over draws of the growth that thinning makes, as a dimension."""
    inverses = []
    for seed in range(draws):
        rows = np.sort(np.random.default_rng(seed).permutation(len(x))[: len(x) // times])
        inverses.append(1 / peers.scaling_dimension(full, find_neighbors(x[rows], k), rows, times, k))
    return float(1 / np.mean(inverses))
