"""Figures, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kat.records import OPENING, Unit
from kat.reports.console.text import printable
from kat.reports.evaluation_parts import Part, parts_of

COLOURS = ("#0072B2", "#D55E00")
"""Blue and vermilion of Okabe & Ito (2008), told apart without red and green."""
GREY = "#6b6b6b"


PLAIN = {"text.parse_math": False, "text.usetex": False}
"""Names of files and sources are text, whatever $ or _ they hold."""


@rc_context(PLAIN)
def draw_evaluation(facts: Mapping[str, Any], path: Path, unit: Unit = OPENING) -> None:
    """Draw accuracy with 95% intervals to a PNG file: all pairs, every opening, every bin, then bins and sources."""
    tables = [list(parts_of(evaluation)) for evaluation in facts["evaluations"]]
    titles = [_title(part, unit) for part in tables[0]]
    kinds = ["view" if part.kind == "macro" else part.kind for part in tables[0]]
    figure = Figure(figsize=(7.2, 1.5 + 0.36 * len(titles)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    step = 0.26 if len(tables) > 1 else 0.0
    for number, (table, name) in enumerate(zip(tables, facts["files"], strict=True)):
        # Two models' points lie a step apart in each row, centred on it.
        shift = (number - (len(tables) - 1) / 2) * step
        _draw_model(axes, table, shift, COLOURS[number], _labelled(name))
    _draw_longer(axes, tables[0])
    axes.axvline(50, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    for border in (row - 0.5 for row in range(1, len(kinds)) if kinds[row] != kinds[row - 1]):
        axes.axhline(border, color="#d0d0d0", linewidth=0.8)
    axes.set_xlabel(f"accuracy, % (ties ½), 95% intervals over {unit.several}")
    axes.grid(axis="x", color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Software": None})


@rc_context(PLAIN)
def draw_tried(facts: Mapping[str, Any], path: Path) -> None:
    """Draw what weightings add to uniform's accuracy, with 95% intervals, to a PNG file: a row a weighting."""
    named = [("every pair", GREY), (facts["rare"], COLOURS[1]), ("bin 4", COLOURS[0])]
    titles = {"every pair": "every pair", facts["rare"]: "rarest fifth", "bin 4": "densest fifth"}
    rows = facts["weightings"]
    figure = Figure(figsize=(7.2, 1.5 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (part, colour) in enumerate(named):
        for row, one in enumerate(rows):
            if part not in one["gains"]:
                continue
            gain, place = one["gains"][part]["accuracy"], row + (number - 1) * 0.24
            axes.plot(100 * gain["difference"], place, "o", color=colour, markersize=5)
            if gain["interval"] is not None:
                axes.plot([100 * x for x in gain["interval"]], [place, place], color=colour, linewidth=1.6)
        axes.plot([], [], "o-", color=colour, label=titles[part])
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [printable(one["name"], 60) + (" *" if one["helps"] else "") for one in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("accuracy less uniform's, points, 95% intervals (* helps)")
    axes.grid(axis="x", color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _title(part: Part, unit: Unit) -> str:
    """The title of a row; of a part of the pairs with how many it holds."""
    title = printable(part.name, 19) if part.kind == "source" else part.title(unit)
    return title if part.kind in ("view", "macro") else f"{title}  (n = {part.counts['openings']:,})"


def _draw_model(axes: Axes, table: Sequence[Part], shift: float, colour: str, name: str) -> None:
    for row, estimates in enumerate(part.estimates for part in table):
        value, interval = 100 * estimates["accuracy"]["value"], estimates["accuracy"]["interval"]
        label = name if row == 0 else None
        if interval is not None:
            axes.plot(
                [100 * x for x in interval], [row + shift] * 2, color=colour, linewidth=1.6, solid_capstyle="butt"
            )
        axes.plot(value, row + shift, "o", color=colour, markersize=5, label=label)


def _draw_longer(axes: Axes, table: Sequence[Part]) -> None:
    estimates = enumerate(part.estimates for part in table)
    longer = [(row, one["longer_wins"]["value"]) for row, one in estimates if "longer_wins" in one]
    for i, (row, value) in enumerate(longer):
        label = "longer completion wins" if i == 0 else None
        axes.plot([100 * value] * 2, [row - 0.32, row + 0.32], color=GREY, linewidth=1.6, label=label)


def _labelled(name: str) -> str:
    """Return a name for the legend; matplotlib leaves out what begins with an underscore."""
    label = printable(name, 28)
    return f" {label}" if label.startswith("_") else label
