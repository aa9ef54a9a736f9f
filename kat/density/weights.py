"""Log density → weights: w = min(cap, s · density^−T), mean 1, with T as large as the effective sample size allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.array_records import Columns, Rows, TableRecord, name_of, number, some_of, span
from kat.config import DensityOptions
from kat.density.estimators import estimate_density
from kat.density.explain import OTHER_KS, evidence, row_of
from kat.errors import InputError
from kat.parameters import check_weighting, explained_keywords
from kat.records import Density
from kat.statistics import effective_sample_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOISE_ESS = 0.9
"""The least effective sample size, as a share of N, that the noise in a density may cost."""

_SMALLEST = np.float64(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False, repr=False)
class Weights(TableRecord):
    """`values` [N] float32, mean 1, none above `cap`. High = counts more; rare weighs more.

    `temperature` is the exponent T in weight ∝ density^−T and `bound` what set it: "ess" (the floor was reached),
    "noise" (a larger T would repeat sampling noise), "max_temperature", "given", or "uniform" (nothing to tell
    apart). `ess` is (Σw)²/Σw² over the openings. `options` are what `weigh` was called with, and `density` what the
    weights were made from, if it was a Density.

    >>> weights = kat.weigh(np.array([1.0, 1.0, 1.0, 0.1]), temperature=0.5)
    >>> weights
    Weights(4 openings, ESS 73.0%, T 0.5 given, w 0.649 … 2.05)
    >>> {name: round(weight, 2) for name, weight in weights.mapping().items()}
    {'0': 0.65, '1': 0.65, '2': 0.65, '3': 2.05}
    """

    ids: Sequence[str]
    values: np.ndarray
    temperature: float
    bound: str
    ess: float
    cap: float
    cap_hits: int
    heaviest_share: float
    options: Mapping[str, Any] = field(default_factory=dict)
    density: Density | None = None

    def __len__(self) -> int:
        return len(self.values)

    def _facts(self) -> Iterator[str]:
        yield number(len(self), "opening")
        if len(self):
            yield f"ESS {self.ess_share:.1%}"
        by = "" if self.bound in ("given", "uniform") else "by "
        yield f"T {self.temperature:.3g} {by}{name_of(self.bound)}"
        yield f"w {span(self.values)}"

    def _columns(self) -> Columns:
        known = {} if self.density is None else {"log_density": self.density.log_values}
        return {"id": self.ids, "weight": self.values, **known}

    def _values(self) -> np.ndarray:
        return self.values

    def _some(self, rows: Rows) -> Weights:
        """What is said of the weights themselves is said of these, whose mean need not be 1."""
        values = self.values[rows]
        return replace(
            self,
            ids=some_of(self.ids, rows),
            values=values,
            ess=effective_sample_size(values) if len(values) else 0.0,
            cap_hits=0 if self.bound == "uniform" else at_cap(values, self.cap),
            heaviest_share=heaviest_share(values) if len(values) else 0.0,
            density=None if self.density is None else self.density[rows],
        )

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw how often each weight occurs; return matplotlib's axes. High = counts more.

        Raises InputError if there are none, MissingExtraError without matplotlib.
        """
        from kat.plots import histogram

        return histogram({"weight": self.values}, repr(self), "weight (mean 1)", "openings", axes)

    @property
    def ess_share(self) -> float:
        """ESS / N, between 0 and 1."""
        return self.ess / max(len(self.values), 1)

    def mapping(self) -> dict[str, float]:
        """Return {id: weight}."""
        return dict(zip(self.ids, self.values.tolist(), strict=True))

    def explain(self, opening_id: str) -> Mapping[str, Any]:
        """Return why an opening weighs what it weighs: see `kat.density.explain.evidence`.

        Raises KeyError for an unknown id, ValueError for weights that were made from plain numbers.
        """
        density = self.density
        if density is None:
            raise ValueError(
                "These weights were made from plain numbers; only those of a kat.Density explain themselves."
            )
        row, neighbors = row_of(opening_id, self.ids), density.neighbors
        if neighbors is None:
            raise ValueError("The density of these weights was made without neighbours; there is nothing to explain.")
        at_k = {density.k: float(self.values[row])}
        for k in OTHER_KS:
            if k != density.k and k <= neighbors.distinct_distances.shape[1]:
                other = weigh(estimate_density(neighbors, k, density.estimator), **self.options)
                at_k[k] = float(other.values[row])
        return evidence(row, opening_id, self.values, density, {k: at_k[k] for k in OTHER_KS if k in at_k})


@explained_keywords
def weigh(
    density: Density | Sequence[float] | np.ndarray,
    ess: float = DensityOptions.ess,
    cap: float = DensityOptions.cap,
    temperature: float | None = DensityOptions.temperature,
    max_temperature: float = DensityOptions.max_temperature,
) -> Weights:
    """Return weights of mean 1, none above `cap`, larger where density is lower.

    A plain vector is taken as densities (positive, not logs). Without `temperature`, T is the largest one up to
    `max_temperature` at which ESS/N is still at least `ess`: a floor. `bound` of the result names what stopped it.

    A Density that knows its noise σ² bounds T too: weights made of noise alone would have an effective sample size of
    exp(−T²σ²), which stays at `NOISE_ESS` or above. So structureless data get nearly uniform weights.

    Raises InputError for no rows, or densities that are not finite and positive; OptionError for a floor outside
    (0, 1], a cap under 1, a floor that no weights under the cap can come down to, or a negative temperature.

    >>> weights = kat.weigh(np.array([2.0] * 50 + [1.0] * 10))
    >>> bool(weights.values[0] < 1 < weights.values[-1]), weights.ess_share >= 0.5
    (True, True)
    """
    check_weighting(ess, cap, temperature, max_temperature)
    ids, log_density = _log_density(density)
    spread = float(np.ptp(log_density))
    if spread == 0:
        chosen, bound = 0.0 if temperature is None else temperature, "uniform"
    elif temperature is not None:
        chosen, bound = temperature, "given"
    else:
        quiet = noise_temperature(density)
        chosen, bound = solve_temperature(log_density, ess, cap, min(max_temperature, quiet))
        if bound == "most":
            bound = "noise" if quiet < max_temperature else "max_temperature"
    values = project(log_density, chosen, cap)
    return Weights(
        ids=ids,
        values=values.astype(np.float32),
        temperature=chosen,
        bound=bound,
        ess=effective_sample_size(values),
        cap=cap,
        cap_hits=at_cap(values, cap) if spread else 0,
        heaviest_share=heaviest_share(values),
        options={"ess": ess, "cap": cap, "temperature": temperature, "max_temperature": max_temperature},
        density=density if isinstance(density, Density) else None,
    )


def noise_temperature(density: Density | Sequence[float] | np.ndarray) -> float:
    """Return the `noise_bound` of a density; infinite where no noise was measured."""
    return noise_bound(density.noise if isinstance(density, Density) else None)


def noise_bound(noise: float | None) -> float:
    """Return the T at which weights of noise σ² alone would have ESS/N = exp(−T²σ²) = NOISE_ESS.

    For weights exp(−T·e) of normal noise e of variance σ², (E w)² / E w² = exp(−T²σ²), by the log-normal moments.
    Infinite where no noise was measured.
    """
    return float(np.sqrt(-np.log(NOISE_ESS) / noise)) if noise else np.inf


def project(log_density: np.ndarray, temperature: float, cap: float) -> np.ndarray:
    """Return the fixed point of w = min(cap, s · density^−T) with mean 1, float64 [N]; exact, without iteration.

    With rows from heavy to light, the first c at the cap leave s = (N − c · cap) / Σ of the others; c is the
    smallest for which the next row stays under the cap.
    """
    order = np.argsort(log_density, kind="stable")
    values = np.empty(len(order))
    values[order] = _project_sorted(log_density[order], temperature, cap)
    return values


def _project_sorted(log_density: np.ndarray, temperature: float, cap: float) -> np.ndarray:
    """`project` of log densities in ascending order, which are weights in descending order."""
    heavy = -temperature * (log_density - log_density[0])
    n = len(heavy)
    log_rest = np.logaddexp.accumulate(heavy[::-1])[::-1]  # log Σ of this row and all lighter ones; no underflow
    left = n - np.arange(n) * cap
    with np.errstate(invalid="ignore", divide="ignore"):
        log_scaled = heavy + np.log(left) - log_rest  # weight of row c if the c before it are at the cap
    c = int(np.argmax((left > 0) & (log_scaled <= np.log(cap) + 1e-12)))
    values = np.full(n, cap, np.float64)
    values[c:] = np.exp(heavy[c:] + np.log(left[c]) - log_rest[c])
    return np.maximum(values, _SMALLEST)  # what underflows must still be a weight


def solve_temperature(log_density: np.ndarray, ess: float, cap: float, most: float) -> tuple[float, str]:
    """Return the largest T in [0, most] with ESS/N ≥ ess, and what stopped it: "ess" or "most".

    ESS falls as T grows, capped or not: weights at a larger T cross those at a smaller one exactly once, hence
    majorise them. So bisection finds it, and its lower end keeps the floor.
    """
    ascending = np.sort(log_density)

    def holds(t: float) -> bool:
        # A hair above, so that the order in which weights are summed cannot take the result under the floor.
        return effective_sample_size(_project_sorted(ascending, t, cap)) >= ess * len(ascending) * (1 + 1e-9)

    if holds(most):
        return most, "most"
    low, high = 0.0, most
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, "ess"


def at_cap(values: np.ndarray, cap: float) -> int:
    """Return how many weights are at the cap, float32's rounding aside."""
    return int((values >= cap * (1 - 1e-6)).sum())


def heaviest_share(values: np.ndarray) -> float:
    """Return the share of all weight on the heaviest 1% of the rows, at least one row."""
    top = max(1, len(values) // 100)
    return float(np.sort(values)[-top:].sum() / values.sum())


def _log_density(density: Density | Sequence[float] | np.ndarray) -> tuple[Sequence[str], np.ndarray]:
    if isinstance(density, Density):
        ids, values = density.ids, np.asarray(density.log_values, np.float64)
    else:
        try:
            plain = np.asarray(density, np.float64)
        except (TypeError, ValueError):
            raise InputError("Densities must be a kat.Density or a vector [N] of numbers.") from None
        if plain.ndim != 1:
            raise InputError(f"Densities have shape {plain.shape}; expected a vector [N].")
        bad = ~(plain > 0)
        if bad.any():
            raise InputError(f"Density {plain[np.argmax(bad)]} of row {int(np.argmax(bad))} is not above 0.")
        ids, values = [str(i) for i in range(len(plain))], np.log(plain)
    if not len(values):
        raise InputError("There are no densities to weigh.")
    if not np.isfinite(values).all():
        raise InputError(f"Density of row {int(np.argmin(np.isfinite(values)))} is not finite.")
    return ids, values
