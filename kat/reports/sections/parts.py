"""What several sections are made of: clipped texts, counted words, histograms, points of a sample, shares by value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kat.records import OPENING, Unit
from kat.reports.blocks import Chart, Column, Format, Series, Table, Value
from kat.statistics import spearman

CELL, QUOTE = 300, 2_000
"""Characters of a text in a table, and of one by itself."""
DRAWN = 2_000
"""Points of a chart; more are a sample."""
ENDS = 10
"""Rows that a long table shows from either end."""
BAR_COUNT = 30


def clipped(text: str, most: int = CELL) -> str:
    """Return a text, or its beginning with how much more there is."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def sentence(text: str) -> str:
    """Return a text with a capital and a full stop."""
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    return ended[:1].upper() + ended[1:]


def many(count: int, one: str, several: str | None = None) -> str:
    """Return a count with its noun: "1 pair", "2,000 pairs"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def known(value: float | None) -> float | None:
    """Return a number, None where it is NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def columns(formats: Mapping[str, Format]) -> list[Column]:
    """Return columns by their titles."""
    return [Column(title, kind) for title, kind in formats.items()]


def facts_table(title: str, format: Format, facts: Mapping[str, Value], heading: str = "value") -> Table:
    """Return a table of named values that are shown alike; those that are None are left out."""
    rows = [(name, value) for name, value in facts.items() if value is not None]
    return Table(title, (Column(""), Column(heading, format)), rows)


def histogram(values: np.ndarray, *, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres and counts of a histogram of values that are all known; with `log`, of equal ratios.

    What is not above 0 cannot stand on a logarithmic axis and is left out there.
    """
    values = np.asarray(values, np.float64)
    scaled = np.log10(values[values > 0]) if log else values
    if not len(scaled):
        return np.zeros(0), np.zeros(0, np.int64)
    low, high = float(scaled.min()), float(scaled.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.05, high + 0.05
    counts, edges = np.histogram(scaled, bins=BAR_COUNT, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    return (10**centres if log else centres), counts


def sampled(count: int, most: int = DRAWN) -> np.ndarray:
    """Return which of `count` rows are drawn, ascending: all, or a sample that is the same every time."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def points_chart(
    name: str,
    title: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    unit: Unit = OPENING,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> Chart | None:
    """Return a chart of y against x, a point a unit, with its rank correlation; None where under two are known."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    both = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(both) < 2:
        return None
    r = spearman(x[both], y[both])
    told = f"rank correlation {r:+.2f}" if math.isfinite(r) else "no rank correlation: one of the two is all alike"
    rows = both[sampled(len(both))]
    if len(rows) < len(both):
        told += f", of all {len(both):,}; {len(rows):,} of them are drawn"
    told = f"{title}: {told}."
    series = [Series(unit.several, x[rows], y[rows])]
    return Chart(name, title, "points", x_label=x_label, y_label=y_label, series=series, told=told, log_y=log_y)


def ends(rows: Sequence[Any], each: int = ENDS) -> tuple[list[Any], int]:
    """Return the first and the last rows, and how many between them are left out."""
    if len(rows) <= 2 * each:
        return list(rows), 0
    return [*rows[:each], *rows[-each:]], len(rows) - 2 * each
