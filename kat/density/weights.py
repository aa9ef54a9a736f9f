"""Log density → weights: w = min(cap, s · density^−T), mean 1, with T as large as the effective sample size allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kat.errors import InputError, OptionError
from kat.records import Density, Weights

_SMALLEST = np.float64(np.finfo(np.float32).tiny)


def weigh(
    density: Density | Sequence[float] | np.ndarray,
    ess: float = 0.5,
    cap: float = 10.0,
    temperature: float | None = None,
    max_temperature: float = 20.0,
) -> Weights:
    """Weights of mean 1, none above `cap`, larger where density is lower.

    A plain vector is taken as densities (positive, not logs). Without `temperature`, T is the largest one up to
    `max_temperature` at which ESS/N is still at least `ess`: a floor. `bound` of the result names what stopped it.

    Raises InputError for no rows, or densities that are not finite and positive; OptionError for a floor outside
    (0, 1], a cap under 1, a floor that no weights under the cap can come down to, or a negative temperature.
    """
    _check_options(ess, cap, temperature, max_temperature)
    ids, log_density = _log_density(density)
    spread = float(np.ptp(log_density))
    if spread == 0:
        chosen, bound = 0.0 if temperature is None else temperature, "uniform"
    elif temperature is not None:
        chosen, bound = temperature, "given"
    else:
        chosen, bound = solve_temperature(log_density, ess, cap, max_temperature)
    values = project(log_density, chosen, cap)
    return Weights(
        ids=ids,
        values=values.astype(np.float32),
        temperature=chosen,
        bound=bound,
        ess=effective_sample_size(values),
        cap=cap,
        cap_hits=int((values >= cap * (1 - 1e-6)).sum()) if spread else 0,
        heaviest_share=heaviest_share(values),
    )


def project(log_density: np.ndarray, temperature: float, cap: float) -> np.ndarray:
    """The fixed point of w = min(cap, s · density^−T) with mean 1, float64 [N]; exact, without iteration.

    With rows from heavy to light, the first c at the cap leave s = (N − c · cap) / Σ of the others; c is the
    smallest for which the next row stays under the cap.
    """
    log_raw = -temperature * (log_density - log_density.min())
    order = np.argsort(-log_raw, kind="stable")
    # Underflow would make a weight zero, which no longer is one.
    raw = np.maximum(np.exp(log_raw[order]), _SMALLEST)
    n = len(raw)
    left = np.cumsum(raw[::-1])[::-1]  # Σ of this row and all lighter ones
    capped = np.arange(n)
    fits = raw * (n - capped * cap) <= cap * left * (1 + 1e-12)
    c = int(np.argmax(fits & (n - capped * cap > 0)))
    values = np.empty(n)
    values[order] = np.where(capped < c, cap, raw * ((n - c * cap) / left[c]))
    return np.maximum(values, _SMALLEST)


def solve_temperature(log_density: np.ndarray, ess: float, cap: float, most: float) -> tuple[float, str]:
    """The largest T in [0, most] with ESS/N ≥ ess, and what stopped it.

    ESS falls as T grows, capped or not: weights at a larger T cross those at a smaller one exactly once, hence
    majorise them. So bisection finds it, and its lower end keeps the floor.
    """
    n = len(log_density)

    def holds(t: float) -> bool:
        return effective_sample_size(project(log_density, t, cap)) >= ess * n

    if holds(most):
        return most, "max_temperature"
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, "ess"


def effective_sample_size(values: np.ndarray) -> float:
    """(Σw)² / Σw² (Kish, Survey Sampling, 1965): how many equal weights would vary as much."""
    values = np.asarray(values, np.float64)
    return float(values.sum() ** 2 / np.square(values).sum())


def heaviest_share(values: np.ndarray) -> float:
    """Share of all weight on the heaviest 1 % of the rows, at least one row."""
    top = max(1, len(values) // 100)
    return float(np.sort(values)[-top:].sum() / values.sum())


def _log_density(density: Density | Sequence[float] | np.ndarray) -> tuple[Sequence[str], np.ndarray]:
    if isinstance(density, Density):
        ids, values = density.ids, np.asarray(density.log_values, np.float64)
    else:
        plain = np.asarray(density, np.float64)
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


def _check_options(ess: float, cap: float, temperature: float | None, max_temperature: float) -> None:
    if not 0 < ess <= 1:
        raise OptionError(f"ess is {ess}; expected a share of N above 0 and at most 1.")
    if not cap >= 1 or not np.isfinite(cap):
        raise OptionError(f"cap is {cap}; weights of mean 1 need a cap of at least 1.")
    if temperature is None and ess < 1 / cap:
        raise OptionError(f"ess is {ess}, but weights of mean 1 under a cap of {cap:g} keep an ESS of {1 / cap:.3g}.")
    for name, value in (("temperature", temperature), ("max_temperature", max_temperature)):
        if value is not None and not 0 <= value < np.inf:
            raise OptionError(f"{name} is {value}; expected a number from 0 up.")
