"""Does the density recover a truth at the user's own size, and does noise get nearly uniform weights?

Data of three kinds are drawn and weighed as real ones would be: mixtures of known density, points without structure,
and structured points whose columns were standardised and shuffled, which destroys what ties the columns together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kat.config import DensityOptions
from kat.density.estimators import Estimator, estimate_density
from kat.density.weights import NOISE_ESS, weigh
from kat.errors import OptionError
from kat.neighbors.find import find_neighbors
from kat.plugins import ESTIMATORS, load_all
from kat.records import Density
from kat.statistics import spearman

RECOVERS = 0.95
"""Least rank correlation with a known density at intrinsic dimension 8 or less, for N of 1,000 or more."""
QUIET = NOISE_ESS - 0.1
"""Least ESS/N of weights of structureless data; the noise bound is an estimate itself."""
_LARGEST_RECOVERED = 8


@dataclass(frozen=True)
class Trial:
    """One data set weighed with one estimator. `bound` is the stated least `value`, None if none is stated."""

    data: str
    estimator: str
    measure: str
    value: float
    bound: float | None
    temperature: float
    stopped_by: str

    @property
    def passed(self) -> bool:
        """Whether the value reaches the bound, if one is stated."""
        return self.bound is None or self.value >= self.bound


def selftest(n: int = 5000, d: int = 8, k: int = DensityOptions.k, seed: int = 0, columns: int = 64) -> list[Trial]:
    """Return trials at n rows of intrinsic dimension d in `columns` columns, k neighbours, for every estimator.

    Bounds are stated for the estimators whose row says so, as the default's does: recovery where d ≤ 8 and n ≥ 1,000,
    quietness always. The others are shown beside them. Raises OptionError for sizes that leave nothing to test.
    """
    if n < 100 or d < 1 or k < 1 or k >= n // 2:
        raise OptionError(f"n = {n}, d = {d}, k = {k}: expected n ≥ 100, d ≥ 1 and 1 ≤ k < n / 2.")
    columns = max(columns, d)
    x, truth = mixture(n, d, columns, seed)
    stated = RECOVERS if d <= _LARGEST_RECOVERED and n >= 1000 else None
    trials = _recovery("mixture of known density", x, truth, k, stated=stated)
    for name, make in NOISE.items():
        trials += _quietness(name, make(n, d, columns, seed), k)
    return trials


def mixture(n: int, d: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw Gaussians of unequal share and spread on a random d-plane [n, columns], with their log density [n]."""
    rng = np.random.default_rng(seed)
    means, spreads, shares = (
        4 * rng.normal(size=(4, d)),
        np.asarray([0.4, 0.7, 1.0, 2.0]),
        np.asarray([4, 3, 2, 1]) / 10,
    )
    which = rng.choice(4, n, p=shares)
    x = means[which] + spreads[which, None] * rng.normal(size=(n, d))
    squares = np.stack([((x - m) ** 2).sum(1) for m in means], 1)
    logs = np.log(shares) - d * np.log(spreads) - squares / (2 * spreads**2)
    return _turned(x, columns, rng), np.logaddexp.reduce(logs, axis=1)


def sphere(n: int, d: int, columns: int, seed: int) -> np.ndarray:
    """Draw uniform points [n, d + 1] on a sphere of dimension d."""
    return np.random.default_rng(seed).normal(size=(n, d + 1)).astype(np.float32)


def shuffled(n: int, d: int, columns: int, seed: int) -> np.ndarray:
    """Draw the mixture [n, columns], every column standardised and permuted: what ties them together is gone.

    Without standardising, unequal means and variances of the columns would remain, and they are a density of their
    own, which a good estimator finds.
    """
    x, _ = mixture(n, d, columns, seed)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    rng = np.random.default_rng(seed + 1)
    return np.stack([rng.permutation(column) for column in x.T], 1)


NOISE: dict[str, Callable[[int, int, int, int], np.ndarray]] = {
    "uniform on a sphere": sphere,
    "columns shuffled": shuffled,
}


def _turned(x: np.ndarray, columns: int, rng: np.random.Generator) -> np.ndarray:
    return (x @ np.linalg.qr(rng.normal(size=(columns, x.shape[1])))[0].T).astype(np.float32)


def _recovery(name: str, x: np.ndarray, truth: np.ndarray, k: int, *, stated: float | None) -> list[Trial]:
    neighbors = find_neighbors(x, k, metric="euclidean")
    trials = []
    for plugin in _estimators():
        if plugin.recovers_euclidean:
            density = estimate_density(neighbors, estimator=plugin.name)
            correlation = spearman(density.log_values, truth)
            bound = stated if plugin.stated else None
            trials.append(_trial(name, density, measure="rank correlation", value=correlation, bound=bound))
    return trials


def _quietness(name: str, x: np.ndarray, k: int) -> list[Trial]:
    neighbors = find_neighbors(x, k, metric="cosine")
    trials = []
    for plugin in _estimators():
        density = estimate_density(neighbors, estimator=plugin.name)
        bound = QUIET if plugin.stated else None
        trials.append(_trial(name, density, measure="ESS / N", value=weigh(density).ess_share, bound=bound))
    return trials


def _estimators() -> list[Estimator]:
    """All estimators: first those with stated bounds, last those with the fewest trials."""
    plugins = load_all(ESTIMATORS).values()
    return sorted(plugins, key=lambda plugin: (not plugin.stated, not plugin.recovers_euclidean, plugin.name))


def _trial(data: str, density: Density, *, measure: str, value: float, bound: float | None) -> Trial:
    weights = weigh(density)
    return Trial(
        data=data,
        estimator=density.estimator,
        measure=measure,
        value=value,
        bound=bound,
        temperature=weights.temperature,
        stopped_by=weights.bound,
    )
