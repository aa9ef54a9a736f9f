"""What each kind of chart draws for one of its series."""

from __future__ import annotations

import re

import numpy as np
from markupsafe import Markup

from kat.reports.blocks import Chart, Series
from kat.reports.html.scales import Scale

COLOURS = 7
"""Colours of Okabe & Ito (2008) in the style sheets: .s0 to .s6."""
MOST_POINTS = 3000
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2 6 2", "12 4")
_MARKERS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",  # circle
    "m-2.8 -2.8h5.6v5.6h-5.6z",  # square
    "m0 -3.6l3.4 6h-6.8z",  # triangle
    "m0 -4l4 4l-4 4l-4 -4z",  # diamond
    "m-3.2 -1h2.2v-2.2h2v2.2h2.2v2h-2.2v2.2h-2v-2.2h-2.2z",  # plus
    "m0 3.6l3.4 -6h-6.8z",  # triangle upside down
    "m-3.6 -1.2h7.2v2.4h-7.2z",  # bar
)


def hatches(chart: Chart) -> Markup:
    """Return the patterns by which bars of several series differ without colour."""
    if chart.kind != "bars" or len(chart.series) < 2:
        return Markup()
    pattern = Markup(
        '<pattern id="{}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate({})">'
        '<path class="s{} fill" fill-opacity=".25" d="M0 0h6v6H0z"/>'
        '<path class="s{} fill" d="M0 0h2.4v6H0z"/></pattern>'
    )
    numbers = range(1, len(chart.series))
    parts = [pattern.format(_hatch(chart, n), (45, -45, 90, 0)[n % 4], n % COLOURS, n % COLOURS) for n in numbers]
    return Markup("<defs>{}</defs>").format(Markup("").join(parts))


def anchor(chart: Chart) -> str:
    """Return what the names of a chart's parts begin with, which no section's anchor does."""
    return "chart--" + re.sub("[^a-z0-9]+", "-", chart.name.lower()).strip("-")


def _hatch(chart: Chart, number: int) -> str:
    return f"{anchor(chart)}-hatch-{number}"


def bars(chart: Chart, number: int, x: Scale, y: Scale, most: int) -> Markup:
    """Return the bars of a series, side by side with those of the others in each step."""
    series, count = chart.series[number], len(chart.series)
    every = np.unique(np.concatenate([x.at(s.x) for s in chart.series]))
    every = every[np.isfinite(every)]
    step = float(np.min(np.diff(every))) if len(every) > 1 else min(60.0, abs(x.end - x.start))
    room = step * (0.94 if count == 1 else 0.84)
    wide = room / count
    lefts = x.at(series.x) - room / 2 + wide * number
    foot = y.start if y.log else float(y.at(0.0))
    tops = y.at(series.y)
    path = "".join(
        f"M{left:.1f} {foot:.1f}V{top:.1f}h{max(wide - 0.6, 0.6):.1f}V{foot:.1f}z"
        for left, top in zip(lefts, tops, strict=True)
        if np.isfinite(left) and np.isfinite(top)
    )
    fill = Markup(' fill="url(#{})"').format(_hatch(chart, number)) if number else Markup()
    name = "outline" if number else "fill"
    drawn = Markup('<path class="s{} {}"{} d="{}"/>').format(number % COLOURS, name, fill, path)
    return drawn + _whiskers(series, lefts + wide / 2, y)


def _whiskers(series: Series, places: np.ndarray, y: Scale) -> Markup:
    if series.low is None or series.high is None:
        return Markup()
    return Markup('<path class="whisker" d="{}"/>').format(
        "".join(
            f"M{at:.1f} {low:.1f}V{high:.1f}"
            for at, low, high in zip(places, y.at(series.low), y.at(series.high), strict=True)
            if np.isfinite(at + low + high)
        )
    )


def lines(chart: Chart, number: int, x: Scale, y: Scale, most: int) -> Markup:
    """Return the line of a series, broken where it is not known, over the band of its intervals."""
    series = chart.series[number]
    xs, ys = x.at(series.x), y.at(series.y)
    band = Markup()
    if series.low is not None and series.high is not None:
        low, high = y.at(series.low), y.at(series.high)
        path = "".join(_outline(xs[part], low[part], high[part]) for part in _runs(xs + low + high))
        band = Markup('<path class="s{} band" d="{}"/>').format(number % COLOURS, path)
    path = "".join(_way(xs[part], ys[part]) for part in _runs(xs + ys))
    dash = _DASHES[number % len(_DASHES)]
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup()
    line = Markup('<path class="s{} line"{} d="{}"/>').format(number % COLOURS, dashed, path)
    few = len(xs) <= 24
    return band + line + (_markers(xs, ys, number) if few else Markup())


def _runs(values: np.ndarray) -> list[slice]:
    """Return the stretches without a gap."""
    known = np.concatenate([[False], np.isfinite(values), [False]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(known) == 1), np.flatnonzero(np.diff(known) == -1)
    return [slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def _way(xs: np.ndarray, ys: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _outline(xs: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    return _way(np.concatenate([xs, xs[::-1]]), np.concatenate([low, high[::-1]])) + "z"


def points(chart: Chart, number: int, x: Scale, y: Scale, most: int) -> Markup:
    """Return the points of a series; of too many a sample, always the same."""
    series = chart.series[number]
    xs, ys = x.at(series.x), y.at(series.y)
    if len(xs) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(xs), most, replace=False))
        xs, ys = xs[rows], ys[rows]
    elif series.low is not None and series.high is not None:
        return _whiskers(series, xs, y) + _markers(xs, ys, number)
    return _markers(xs, ys, number, many=len(xs) > 200)


def _markers(xs: np.ndarray, ys: np.ndarray, number: int, *, many: bool = False) -> Markup:
    known = [(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(x + y)]
    if many:  # a line of no length with round ends is a small disc, in few letters
        path, name = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in known), "dots"
    else:
        path, name = "".join(f"M{x:.1f} {y:.1f}{_MARKERS[number % len(_MARKERS)]}" for x, y in known), "fill"
    return Markup('<path class="s{} {}" d="{}"/>').format(number % COLOURS, name, path)


def intervals(chart: Chart, number: int, x: Scale, y: Scale, most: int) -> Markup:
    """Return points with their intervals, a row each; those of several series lie beside each other in a row."""
    series = chart.series[number]
    apart = 0.7 / len(chart.series)
    ys = y.at(np.asarray(series.x, float) + (number - (len(chart.series) - 1) / 2) * apart)
    xs = x.at(series.y)
    line = Markup()
    if series.low is not None and series.high is not None:
        path = "".join(
            f"M{low:.1f} {at:.1f}H{high:.1f}"
            for low, high, at in zip(x.at(series.low), x.at(series.high), ys, strict=True)
            if np.isfinite(low + high + at)
        )
        line = Markup('<path class="s{} interval" d="{}"/>').format(number % COLOURS, path)
    return line + _markers(xs, ys, number)


def swatch(chart: Chart, number: int, left: float, middle: float) -> Markup:
    """Return what stands before the name of a series in the legend."""
    at, colour = np.array([left + 10]), number % COLOURS
    if chart.kind == "bars":
        fill = Markup(' fill="url(#{})"').format(_hatch(chart, number)) if number else Markup()
        box = Markup('<path class="s{} {}"{} d="M{:.1f} {:.1f}h14v11h-14z"/>')
        return box.format(colour, "outline" if number else "fill", fill, left + 3, middle - 6)
    marker = _markers(at, np.array([middle]), number)
    if chart.kind == "points":
        return marker
    dash = _DASHES[number % len(_DASHES)] if chart.kind == "lines" else ""
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup()
    line = Markup('<path class="s{} line"{} d="M{:.1f} {:.1f}h22"/>').format(colour, dashed, left - 1, middle)
    return line if chart.kind == "lines" and all(len(s.x) > 24 for s in chart.series) else line + marker
