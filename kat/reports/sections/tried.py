"""What `kat try-weights` found: what each weighting adds to uniform's accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kat.reports.blocks import Block, Chart, Column, Mark, Series, Table, Text, Value
from kat.reports.evaluation_parts import bin_name
from kat.reports.sections.parts import clipped, columns, many, sentence


def tried_blocks(facts: Mapping[str, Any]) -> list[Block]:
    """Return the sentence, a chart and tables of the weightings that were tried."""
    blocks: list[Block] = [Text(f"kat try-weights: {facts['sentence']}.")]
    parts = shown_parts(facts)
    if facts["weightings"]:
        blocks += [_chart(facts, parts), _gains(facts, parts)]
    return [*blocks, _uniform(facts)]


def shown_parts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return titles by the part of the pairs: every pair, the rarest bin, the most crowded one that is known."""
    bins = [name for name in facts["uniform"] if name != "every pair"]
    titles = {"every pair": "every pair"}
    if facts["rare"] in facts["uniform"]:
        titles[facts["rare"]] = bin_name(facts["rare"].removeprefix("bin "))
    if bins and bins[-1] != facts["rare"]:
        titles[bins[-1]] = bin_name(bins[-1].removeprefix("bin "))
    return titles


def _chart(facts: Mapping[str, Any], parts: Mapping[str, str]) -> Chart:
    """Gains in accuracy with their intervals: a row a weighting, a series a part of the pairs."""
    rows = facts["weightings"]
    series = []
    for part, title in parts.items():
        own = [(n, one["gains"][part]["accuracy"]) for n, one in enumerate(rows) if part in one["gains"]]
        intervals = [gain["interval"] or (np.nan, np.nan) for _, gain in own]
        low, high = np.asarray(intervals, np.float64).reshape(-1, 2).T
        x, y = np.asarray([(n, gain["difference"]) for n, gain in own], np.float64).reshape(-1, 2).T
        series.append(Series(title, x, y, low, high))
    helping = [one["name"] for one in rows if one["helps"]]
    told = f"{many(len(rows), 'weighting')}; helping: {', '.join(helping) or 'none'}. {sentence(facts['sentence'])}"
    categories = [clipped(one["name"], 60) + (" *" if one["helps"] else "") for one in rows]
    return Chart(
        "tried",
        "What weightings add to uniform's accuracy (* helps)",
        "intervals",
        x_label="weighting",
        y_label="accuracy less uniform's",
        series=series,
        told=told,
        categories=categories,
        marks=[Mark("y", 0.0, "uniform")],
        format="points",
    )


def _gains(facts: Mapping[str, Any], parts: Mapping[str, str]) -> Table:
    head = [Column("weighting"), Column("helps")]
    for title in parts.values():
        head += [Column(f"{title}: difference", "points"), Column("from", "points"), Column("to", "points")]
    head += [Column("log-loss, rarest", "number"), Column("p", "number"), Column("rank among permuted", "count")]
    head += [Column("of", "count")]
    rows = []
    for one in facts["weightings"]:
        cells: list[Value] = [clipped(one["name"]), "helps" if one["helps"] else ""]
        for part in parts:
            gain = one["gains"][part]["accuracy"] if part in one["gains"] else {"difference": None, "interval": None}
            cells += [gain["difference"], *(gain["interval"] or (None, None))]
        rare, permuted = one["gains"].get(facts["rare"]), one["permuted"]
        cells += [None if rare is None else rare["log_loss"]["difference"], one["p_rare_log_loss"]]
        cells += [None, None] if permuted is None else [permuted["rank"], permuted["count"] + 1]
        rows.append(cells)
    title = "Differences from uniform, with 95% intervals; p is corrected for all weightings"
    return Table(title, head, rows)


def _uniform(facts: Mapping[str, Any]) -> Table:
    head = columns({"uniform weights, on": "text", "pairs": "count", "accuracy": "percent", "log-loss": "number"})
    rows = [
        (bin_name(name.removeprefix("bin ")), one["pairs"], one["accuracy"], one["log_loss"])
        for name, one in facts["uniform"].items()
    ]
    return Table(f"Uniform weights: linear heads on {facts['model']}'s features", head, rows)
