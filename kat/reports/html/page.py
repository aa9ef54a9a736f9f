"""A report as one page that opens from disk: style, scripts and data inside, and nothing that loads from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from kat.reports.blocks import Block, Points, Report
from kat.reports.html import cells, columns, svg

SCRIPTS = ("data.js", "colours.js", "view.js", "table.js", "map.js", "gestures.js", "start.js")
STYLES = ("chart.css", "page.css")
FIRST_ROWS = 20
CELL_LETTERS, TEXT_LETTERS = 1_000, 20_000
"""Longer texts in a cell, or anywhere, are clipped and marked."""
_SMALL, _LARGE = (28_000, 5_000_000), (100_000, 15_000_000)
"""Points and the bytes that a page of them may have; between them the bytes grow evenly."""
_ROOM = 512
"""Bytes kept for the sentence that says to what texts were clipped."""


def budget(points: int) -> int:
    """Return the most bytes that a page of so many points may have."""
    (few, small), (many, large) = _SMALL, _LARGE
    share = min(max((points - few) / (many - few), 0.0), 1.0)
    return small + int(share * (large - small))


def render(report: Report, *, most_bytes: int | None = None) -> bytes:
    """Return a report as an HTML page in UTF-8.

    Texts of the map are clipped to what lets the page have `most_bytes` (5 MB up to 28,000 points, growing evenly to
    15 MB at 100,000), which the page says. What else a report holds is not shortened for it: without any text of the
    map a page may still be larger.
    """
    parts = _parts(report)
    if report.points is None:
        return _page(report, parts, None)
    most = most_bytes if most_bytes is not None else budget(len(report.points))
    packed = columns.pack(report.points)
    room = most - len(_page(report, parts, packed)) - _ROOM
    return _page(report, parts, columns.with_texts(packed, report.points.texts, max(room, 0)))


def _page(report: Report, parts: list[dict[str, Any]], packed: columns.Packed | None) -> bytes:
    style = "".join(map(_asset, STYLES))
    names = SCRIPTS if packed else SCRIPTS[-1:]
    script = '"use strict";\n(() => {\n' + "".join(map(_asset, names)) + "})();\n"
    page = _environment().get_template("page.html.j2")
    told = page.render(
        title=report.title,
        parts=parts,
        map=_map(report.points, packed) if report.points is not None and packed is not None else None,
        style=Markup(style),
        script=Markup(script),
        policy=Markup(_policy(script, style)),
        first_rows=FIRST_ROWS,
    )
    return told.encode("utf-8")


def _policy(script: str, style: str) -> str:
    """Return a content security policy: this script and this style alone, nothing from anywhere."""
    allowed = {name: _digest(text) for name, text in (("script-src", script), ("style-src", style))}
    hashes = "; ".join(f"{name} 'sha256-{digest}'" for name, digest in allowed.items())
    return f"default-src 'none'; {hashes}; img-src data:; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _parts(report: Report) -> list[dict[str, Any]]:
    """Return the sections that hold something, the map in its place, with anchors that are no two alike."""
    parts: list[dict[str, Any]] = []
    taken = {"map", "top", "content", "theme"}
    for section in report.sections:
        if section.blocks:
            anchor = _anchor(section.name, taken)
            blocks = [_block(block) for block in section.blocks]
            parts.append({"anchor": anchor, "title": section.title, "blocks": blocks, "map": False})
        if report.points is not None and section.name == report.map_after:
            parts.append({"anchor": "map", "title": "Map", "blocks": [], "map": True})
    if report.points is not None and not any(part["map"] for part in parts):
        parts.append({"anchor": "map", "title": "Map", "blocks": [], "map": True})
    return parts


def _anchor(name: str, taken: set[str]) -> str:
    base = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    base = f"part-{base}" if base.startswith("map-") else base
    anchor, number = base, 2
    while anchor in taken:
        anchor, number = f"{base}-{number}", number + 1
    taken.add(anchor)
    return anchor


def _block(block: Block) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": type(block).__name__.lower(), "block": block}
    if facts["kind"] == "chart":
        facts |= {"svg": svg.draw(block), "left_out": svg.left_out(block)}  # type: ignore[arg-type]
    return facts


def _map(points: Points, packed: columns.Packed) -> dict[str, Any]:
    return {
        "projection": points.projection,
        "points": len(packed.rows),
        "of": len(points),
        "several": points.unit.several,
        "letters": packed.letters,
        "most_letters": columns.MOST_LETTERS,
        "clipped": packed.clipped,
        "facts": _json(packed.facts),
        "columns": {name: Markup(column) for name, column in packed.columns.items()},
    }


def _json(facts: dict[str, Any]) -> Markup:
    """Return JSON that no parser of HTML can take for markup."""
    told = json.dumps(facts, allow_nan=False)
    for char in "<>&'":
        told = told.replace(char, f"\\u{ord(char):04x}")
    return Markup(told)


@cache
def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_asset),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )
    environment.filters["shown"] = _cell
    environment.filters["raw"] = cells.raw
    environment.filters["short"] = lambda text: cells.clipped(text, 60)
    return environment


def _visible(value: object) -> object:
    """Return text that HTML can hold, for whatever a template shows."""
    return cells.clipped(value, TEXT_LETTERS) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cell(value: cells.Value, form: cells.Format) -> str:
    return cells.clipped(cells.shown(value, form), CELL_LETTERS)
