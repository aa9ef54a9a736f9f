"""Charts as SVG: drawn for a page with a light and a dark face, or to stand alone as a file.

Colours are classes, for the page's policy allows no style on an element. Series differ by dash, marker or hatching too.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from markupsafe import Markup

from kat.reports.blocks import Chart, Series
from kat.reports.html.cells import clipped, visible
from kat.reports.html.scales import Scale, scale_over, tick_labels
from kat.reports.html.series import MOST_POINTS, anchor, bars, hatches, intervals, lines, points, swatch

WIDTH = 680
_PLOT, _ROW, _FOOT, _TOP, _RIGHT = 280, 22, 46, 14, 18
_LETTER = 7.0
"""About as wide as a letter of the ticks, for nothing measures text here."""


def left_out(chart: Chart) -> int:
    """Return how many points of a chart are not drawn, for a picture needs no more than some thousand."""
    if chart.kind != "points":
        return 0
    return sum(max(0, len(series.x) - _share(chart)) for series in chart.series)


def draw(chart: Chart, *, alone: bool = False) -> Markup:
    """Return a chart as an SVG element: for a page, whose style sheet colours it, or alone with colours of its own."""
    flat = chart.kind == "intervals"
    row = max(_ROW, 15 * len(chart.series) + 8)
    plot = max(row * max(len(chart.categories), _rows(chart)), 60) if flat else _PLOT
    names = _legend(chart)
    top = _TOP + 22 * (1 + max((row for row, _, _ in names), default=-1)) + 16 * any(m.axis == "x" for m in chart.marks)
    height = top + plot + _FOOT
    x, y = _scales(chart, top, top + plot)
    parts = [hatches(chart), _grid(chart, x, y), _draw_series(chart, x, y), _marks(chart, x, y), _titles(chart, x, y)]
    for row, left, number in names:
        name = clipped(chart.series[number].name, 40)
        parts += [swatch(chart, number, left, _TOP + 22 * row), _text(left + 26, _TOP + 22 * row + 4, name, "legend")]
    name = anchor(chart)
    head = Markup('<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {:.0f}" role="img" ').format(
        WIDTH, height
    )
    told = Markup(
        'aria-labelledby="{0}-title {0}-desc"><title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>'
    )
    style = Markup("<style>{}</style>").format(Markup(_style_alone())) if alone else Markup()
    size = Markup('width="{}" height="{:.0f}" ').format(WIDTH, height) if alone else Markup()
    body = Markup("\n").join(part for part in parts if part)
    return (
        head
        + size
        + told.format(name, clipped(chart.title, 2000), clipped(chart.told, 2000))
        + style
        + body
        + Markup("</svg>")
    )


def _style_alone() -> str:
    return (files(__package__) / "assets" / "chart.css").read_text(encoding="utf-8")


def _share(chart: Chart) -> int:
    return MOST_POINTS // max(len(chart.series), 1)


def _rows(chart: Chart) -> int:
    return max((int(np.nanmax(series.x)) + 1 for series in chart.series if len(series.x)), default=1)


def _legend(chart: Chart) -> list[tuple[int, float, int]]:
    """Return where the names of the series stand, none for a single one: row, left, number."""
    if len(chart.series) < 2:
        return []
    places, row, left = [], 0, 8.0
    for number, series in enumerate(chart.series):
        width = 44 + _LETTER * min(len(visible(series.name)), 40)
        if left + width > WIDTH and left > 8:
            row, left = row + 1, 8.0
        places.append((row, left, number))
        left += width
    return places


def _scales(chart: Chart, top: float, bottom: float) -> tuple[Scale, Scale]:
    """Return the horizontal and the vertical axis. Of intervals the values run along the horizontal one."""
    values = np.concatenate([_extent(series) for series in chart.series] or [np.zeros(0)])
    values = np.concatenate([values, [mark.at for mark in chart.marks if mark.axis == "y"]])
    if chart.kind == "intervals":
        values = np.concatenate([values, [mark.at for mark in chart.marks if mark.axis == "x"]])
        left = 20 + _LETTER * min(max((len(visible(name)) for name in chart.categories), default=2), 34)
        rows = max(len(chart.categories), _rows(chart))
        along = scale_over(values, left, WIDTH - _RIGHT, log=chart.log_y or chart.log_x)
        return along, Scale(-0.5, rows - 0.5, top, bottom)
    places = np.concatenate([np.asarray(series.x, float) for series in chart.series] or [np.zeros(0)])
    places = np.concatenate([places, [mark.at for mark in chart.marks if mark.axis == "x"]])
    zero = chart.kind == "bars" and not chart.log_y
    y = scale_over(values, bottom, top, log=chart.log_y, zero=zero)
    longest = max(map(len, tick_labels(y.ticks(), chart.format)), default=1)
    left = 34 + _LETTER * longest
    x = scale_over(places, left, WIDTH - _RIGHT, log=chart.log_x)
    if chart.kind == "bars":
        x = _with_half_steps(chart, x)
    return x, y


def _with_half_steps(chart: Chart, x: Scale) -> Scale:
    """Return an axis on which the outer bars have their place in full."""
    xs = np.unique(np.concatenate([np.asarray(s.x, float) for s in chart.series] or [np.zeros(1)]))
    xs = xs[np.isfinite(xs) & ((xs > 0) | (not x.log))]
    if not len(xs):
        return x
    if x.log:
        half = np.sqrt(np.min(xs[1:] / xs[:-1])) if len(xs) > 1 else 2.0
        return Scale(min(x.low, xs[0] / half), max(x.high, xs[-1] * half), x.start, x.end, log=True)
    half = np.min(np.diff(xs)) / 2 if len(xs) > 1 else 0.5
    return Scale(min(x.low, xs[0] - half), max(x.high, xs[-1] + half), x.start, x.end)


def _extent(series: Series) -> np.ndarray:
    ends = [side for side in (series.low, series.high) if side is not None]
    return np.concatenate([np.asarray(side, float) for side in (series.y, *ends)])


def _grid(chart: Chart, x: Scale, y: Scale) -> Markup:
    parts, flat = [], chart.kind == "intervals"
    named = bool(chart.categories) and not flat
    xs = list(map(float, range(len(chart.categories)))) if named else x.ticks(6)
    words = [clipped(c, 14) for c in chart.categories] if named else tick_labels(xs, chart.format if flat else "number")
    for at, word in zip(x.at(np.array(xs)), words, strict=True):
        if not named:
            parts.append(_line(at, y.start, at, y.end, "grid"))
        parts.append(_text(at, max(y.start, y.end) + 17, word, "tick", "middle"))
    ys = list(map(float, range(len(chart.categories)))) if flat else y.ticks(5)
    words = [clipped(name, 34) for name in chart.categories] if flat else tick_labels(ys, chart.format)
    for at, word in zip(y.at(np.array(ys)), words, strict=True):
        if not flat:
            parts.append(_line(x.start, at, x.end, at, "grid"))
        parts.append(_text(x.start - 8, at + 4, word, "tick", "end"))
    bottom = max(y.start, y.end)
    parts.append(_line(x.start, bottom, x.end, bottom, "axis"))
    return Markup("").join(parts)


def _draw_series(chart: Chart, x: Scale, y: Scale) -> Markup:
    drawn = {"bars": bars, "lines": lines, "points": points, "intervals": intervals}[chart.kind]
    most = _share(chart)
    return Markup("\n").join(drawn(chart, number, x, y, most) for number in range(len(chart.series)))


def _marks(chart: Chart, x: Scale, y: Scale) -> Markup:
    parts = []
    top = min(y.start, y.end)
    upright = sorted(float(x.at(m.at)) for m in chart.marks if m.axis == "x" or chart.kind == "intervals")
    for mark in chart.marks:
        label = clipped(mark.label, 48)
        if mark.axis == "x" or chart.kind == "intervals":
            at = float(x.at(mark.at))
            anchor = "start" if at < x.start + 0.2 * (x.end - x.start) else "end" if at > x.end - 90 else "middle"
            if any(0 < other - at < 100 for other in upright):  # its label goes to its left, the other's to its right
                anchor = "end"
            elif any(0 < at - other < 100 for other in upright):
                anchor = "start"
            parts += [_line(at, y.start, at, y.end, "mark"), _text(at, top - 5, label, "tick", anchor)]
        else:
            at = float(y.at(mark.at))
            parts += [_line(x.start, at, x.end, at, "mark"), _text(x.end - 2, at - 5, label, "tick", "end")]
    return Markup("").join(parts)


def _titles(chart: Chart, x: Scale, y: Scale) -> Markup:
    below, beside = (chart.y_label, "") if chart.kind == "intervals" else (chart.x_label, chart.y_label)
    bottom = max(y.start, y.end)
    middle = (y.start + y.end) / 2
    under = _text((x.start + x.end) / 2, bottom + 38, clipped(below, 80), "label", "middle")
    turned = Markup('<text class="label" text-anchor="middle" transform="translate(14 {:.1f}) rotate(-90)">{}</text>')
    return under + (turned.format(middle, clipped(beside, 44)) if beside else Markup())


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(name, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, name: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(name, x, y, anchor, text)
