"""What a report is made of: sections of paragraphs, tables, charts, commands and texts, whoever shows them.

Numbers stay numbers: whoever shows a cell formats it, and a reader of the page can compare it with the JSON files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from kat.records import OPENING, Unit

Value: TypeAlias = "float | int | str | bool | None"
"""A cell; None is shown as a dash."""
Format: TypeAlias = Literal["text", "id", "count", "number", "percent", "points", "bytes", "seconds"]
"""How the numbers of a column are shown: 1,234 · 1.23 · 12.3% · +1.2 points · 1.2 MB · 1.2 s. Text is never markup."""


@dataclass(frozen=True)
class Column:
    """A table's column: its title, and how its values are shown."""

    title: str
    format: Format = "text"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that should give pause, or says what is missing."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of values under columns. `more` says how many rows are left out, which the caption's reader is told."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    more: int = 0


@dataclass(frozen=True)
class Commands:
    """Shell commands to copy, each a line, under a title."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Quotes:
    """Texts as they were written, each under a heading: completions, rows that were skipped."""

    title: str
    texts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Series:
    """Values `y` over `x`, with intervals `low` and `high` where they are known; NaN is a gap."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Mark:
    """A line across a chart at a value of one axis, with a label."""

    axis: Literal["x", "y"]
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A figure. `name` is its file's; `kind` says how the series are drawn.

    "bars" stand side by side over the same x, as wide as their step; "intervals" are points with their intervals in
    rows named by `categories`, x being the row and y the value, which is drawn along the horizontal axis. `told` says
    in a sentence what is seen, for those who do not see it.
    """

    name: str
    title: str
    kind: Literal["bars", "lines", "points", "intervals"]
    x_label: str
    y_label: str
    series: Sequence[Series]
    told: str
    categories: Sequence[str] = ()
    marks: Sequence[Mark] = ()
    log_x: bool = False
    log_y: bool = False
    format: Format = "number"


Block: TypeAlias = Text | Note | Table | Commands | Quotes | Chart


@dataclass(frozen=True)
class Section:
    """A part of the report under a title; `name` is its anchor. Without blocks it is left out."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Points:
    """The openings as the map draws them, [N] each, in any order.

    `xy` [N, 2] are the coordinates. `numbers` are what can be told by a scale of colours, NaN where it is not known,
    `kinds` what is told by one colour each, "" where it is not known: both by the name that is shown, in the order of
    the choice. `texts` are the openings in full; who shows them clips them. `labels` name regions: x, y and words.
    `projection` says in a sentence how the coordinates were made, `unit` what a point is called.
    """

    ids: Sequence[str]
    xy: np.ndarray
    texts: Sequence[str]
    numbers: Mapping[str, np.ndarray]
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Sequence[tuple[float, float, str]] = ()
    projection: str = ""
    unit: Unit = OPENING

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Report:
    """A whole report: its title, its sections in order, and the map that stands after the section named `map_after`."""

    title: str
    sections: Sequence[Section]
    points: Points | None = None
    map_after: str = "summary"
