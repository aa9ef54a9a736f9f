"""The charts of a report as files, drawn by matplotlib without a display: the same bytes every time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.reports.blocks import Chart, Format, Points, Series
from kat.reports.console.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b6b6b")
"""Of Okabe & Ito (2008), told apart without red and green; more series than these begin again."""
GREY = "#6b6b6b"
FEW = 24
"""A line of so many points shows each."""
_NO_GLYPH = "Glyph .* missing from"
"""A character that the font lacks is drawn as a box in the PNG file; the SVG file has it as text."""
_STYLE = {
    "text.parse_math": False,  # names of files and sources are text, whatever $ or _ they hold
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kat",
}


def draw_chart(chart: Chart, folder: Path) -> list[Path]:
    """Write a chart to FOLDER/NAME.png and FOLDER/NAME.svg, and return both."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = (folder / f"{chart.name}.{kind}" for kind in ("png", "svg"))
    height = 1.6 + 0.36 * len(chart.categories) if chart.kind == "intervals" else 4.2
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NO_GLYPH)
        figure = Figure(figsize=(7.2, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _DRAW[chart.kind](axes, chart)
        _label(axes, chart)
        if len(chart.series) > 1:
            figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
        figure.savefig(png, dpi=150, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def draw_map(points: Points, folder: Path) -> list[Path]:
    """Write the map, coloured by its first number, to FOLDER/map.png and FOLDER/map.svg, and return both.

    The points of the SVG file are one picture inside it: a hundred thousand shapes would open nowhere.
    """
    from matplotlib import patheffects, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = (folder / f"map.{kind}" for kind in ("png", "svg"))
    name, values = next(iter(points.numbers.items()))
    order = np.argsort(-values, kind="stable")  # the rare on top
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NO_GLYPH)
        figure = Figure(figsize=(7.2, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        low, high = np.nanquantile(values, [0.02, 0.98])
        size = float(np.clip(4e4 / max(len(points), 1), 1.0, 16.0))
        x, y = points.xy[order].T
        drawn = axes.scatter(x, y, s=size, c=values[order], vmin=low, vmax=high, linewidths=0, rasterized=True)
        figure.colorbar(drawn, label=name, shrink=0.6)
        halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
        for left, bottom, words in points.labels:
            axes.annotate(printable(words, 40), (left, bottom), fontsize=8, ha="center", va="bottom", path_effects=halo)
        axes.set_aspect("equal", "datalim")
        axes.set_axis_off()
        figure.savefig(png, dpi=150, metadata={"Software": None})
        figure.savefig(svg, dpi=150, metadata={"Date": None, "Creator": None})
    return [png, svg]


def _bars(axes: Axes, chart: Chart) -> None:
    """Bars side by side, in a share of the step between their places, which is a ratio on a logarithmic axis."""
    count = len(chart.series)
    for number, one in enumerate(chart.series):
        x = np.log10(one.x) if chart.log_x else np.asarray(one.x, np.float64)
        step = float(np.min(np.diff(x))) if len(x) > 1 else 1.0
        left, right = (x - step / 2 + step * (number + side) / count for side in (0.0, 1.0))
        if chart.log_x:
            left, right = 10**left, 10**right
        colour = COLOURS[number % len(COLOURS)]
        axes.bar(
            left, one.y, right - left, align="edge", color=colour, edgecolor="white", linewidth=0.4, label=_named(one)
        )


def _lines(axes: Axes, chart: Chart) -> None:
    for number, one in enumerate(chart.series):
        colour = COLOURS[number % len(COLOURS)]
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
        marker = "o" if len(one.x) <= FEW else None
        axes.plot(one.x, one.y, color=colour, linewidth=1.6, marker=marker, label=_named(one))


def _points(axes: Axes, chart: Chart) -> None:
    for number, one in enumerate(chart.series):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(one.x, one.y, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0, label=_named(one))


def _intervals(axes: Axes, chart: Chart) -> None:
    """Values along the horizontal axis in rows, the points of several series a step apart."""
    count = len(chart.series)
    step = 0.6 / count if count > 1 else 0.0
    for number, one in enumerate(chart.series):
        colour = COLOURS[number % len(COLOURS)]
        rows = np.asarray(one.x, np.float64) + (number - (count - 1) / 2) * step
        if one.low is not None and one.high is not None:
            axes.hlines(rows, one.low, one.high, color=colour, linewidth=1.6)
        axes.plot(one.y, rows, "o", color=colour, markersize=5, label=_named(one))
    axes.set_yticks(range(len(chart.categories)), [printable(name, 60) for name in chart.categories])
    axes.set_ylim(max(len(chart.categories), 1) - 0.5, -0.5)


_DRAW: dict[str, Callable[[Any, Chart], None]] = {
    "bars": _bars,
    "lines": _lines,
    "points": _points,
    "intervals": _intervals,
}


def _label(axes: Axes, chart: Chart) -> None:
    """Titles, scales, marks and grid. Of intervals the values lie along the horizontal axis."""
    sideways = chart.kind == "intervals"
    axes.set_title(printable(chart.title, 90), fontsize=10, loc="left")
    axes.set_xlabel(printable(chart.y_label if sideways else chart.x_label, 90))
    if not sideways:
        axes.set_ylabel(printable(chart.y_label, 60))
    _scale(axes, chart)
    for mark in chart.marks:
        upright = (mark.axis == "x") != sideways
        line = axes.axvline if upright else axes.axhline
        line(mark.at, color=GREY, linewidth=0.8, linestyle=":")
        place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": GREY, "annotation_clip": False}
        if upright:
            place |= {"xy": (mark.at, 1.0), "xycoords": ("data", "axes fraction"), "xytext": (3, -9)}
        else:
            place |= {"xy": (1.0, mark.at), "xycoords": ("axes fraction", "data"), "xytext": (-3, 3), "ha": "right"}
        axes.annotate(printable(mark.label, 40), **place)
    if (shown := _ticks(chart.format)) is not None and not (chart.log_y and not sideways):
        (axes.xaxis if sideways else axes.yaxis).set_major_formatter(shown)
    axes.grid(axis="x" if sideways else "y", color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, chart: Chart) -> None:
    """Logarithmic axes with plain numbers at 1, 2 and 5 of each power of ten: no mathematics, which is off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    sideways = chart.kind == "intervals"
    if chart.log_x or (sideways and chart.log_y):
        axes.set_xscale("log")
    if chart.log_y and not sideways:
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))


def _ticks(format: Format) -> Any:
    """What shows the values at the axis; None for plain numbers."""
    from matplotlib.ticker import FuncFormatter

    shown: dict[str, Callable[[float, int], str]] = {
        "percent": lambda value, _: f"{100 * value:.4g}%",
        "points": lambda value, _: f"{100 * value:+.4g}",
        "count": lambda value, _: f"{value:,.0f}",
    }
    return FuncFormatter(shown[format]) if format in shown else None


def _named(series: Series) -> str:
    """A name for the legend; matplotlib leaves out what begins with an underscore."""
    label = printable(series.name, 40)
    return f" {label}" if label.startswith("_") else label
