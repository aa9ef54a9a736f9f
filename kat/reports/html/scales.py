"""Axes: from values to places in a picture, and the ticks that people read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kat.reports.blocks import Format
from kat.reports.html.cells import shown

_HUGE = 1e150
"""Numbers beyond have no place: their spans would overflow."""
_TIMES = {"percent": 100, "points": 100}


@dataclass(frozen=True)
class Scale:
    """An axis over [low, high] that is drawn from `start` to `end`; logarithmic ones need low > 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, values: np.ndarray | float) -> np.ndarray:
        """Return where values lie; NaN where they have no place (also zero and less on a logarithmic axis)."""
        values, low, high = self._seen(values), self._seen(self.low), self._seen(self.high)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def _seen(self, values: np.ndarray | float) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        if not self.log:
            return values
        return np.log10(np.where(values > 0, values, np.nan))

    def ticks(self, about: int = 5) -> list[float]:
        """Return round values inside the axis, about as many as asked for."""
        if not self.log:
            return _even(self.low, self.high, about)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if last - first >= 2:
            return [10.0**power for power in range(first, last + 1, math.ceil((last - first + 1) / (about + 1)))]
        many = [m * 10.0**power for power in range(first - 1, last + 1) for m in (1, 2, 5)]
        inside = [value for value in many if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        return inside if len(inside) >= 2 else _even(self.low, self.high, about)


def scale_over(values: np.ndarray, start: float, end: float, *, log: bool = False, zero: bool = False) -> Scale:
    """Return an axis on which all finite values have their place with some air; `zero` puts 0 on its end."""
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[(np.abs(values) < _HUGE) & ((values > 0) | (not log))]
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        air = (high / low) ** 0.04 if high > low else 2.0
        return Scale(low / air, high * air, start, end, log=True)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    air = 0.04 * (high - low) if high > low else 0.1 * abs(high) or 0.5
    # What stands on zero keeps its foot there.
    return Scale(low - air * (not zero or low < 0), high + air * (not zero or high > 0 or low == high), start, end)


def tick_labels(ticks: list[float], form: Format) -> list[str]:
    """Return the ticks' words: as few decimals as tell them apart."""
    if len(ticks) < 2 or form in ("bytes", "seconds", "count"):
        return [shown(tick, form) for tick in ticks]
    times, unit = _TIMES.get(form, 1), "%" if form == "percent" else ""
    steps = [b - a for a, b in pairwise(ticks)]
    even = max(steps) < 1.5 * min(steps)
    biggest, step = max(map(abs, ticks)) * times, min(steps) * times
    if not even or biggest >= 1e7 or step < 1e-4:
        return [shown(tick, form) if form == "percent" else _round(tick) for tick in ticks]
    decimals = next(d for d in range(9) if abs(round(step, d) - step) < 1e-6 * step)
    sign = "+" if form == "points" else ""
    labels = [f"{tick * times + 0.0:{sign},.{decimals}f}{unit}" for tick in ticks]
    return [
        label.replace("-", "−").replace("+0", "0") if not tick else label.replace("-", "−")
        for label, tick in zip(labels, ticks, strict=True)
    ]


def _round(tick: float) -> str:
    return f"{tick:,.6g}".replace("-", "−") if 1e-4 <= abs(tick) < 1e7 or not tick else shown(tick)


def _even(low: float, high: float, about: int) -> list[float]:
    step = (high - low) / max(about, 1)
    size = 10.0 ** math.floor(math.log10(step))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= step * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) + 0.0 for i in range(first, last + 1)]
