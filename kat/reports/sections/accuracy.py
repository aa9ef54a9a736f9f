"""Accuracy of reward models by density bin and source, with intervals; several side by side, and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kat.records import OPENING, Unit
from kat.reports.blocks import Chart, Mark, Series, Table
from kat.reports.evaluation_parts import Part, bin_name, compared_parts, parts_of
from kat.reports.sections.parts import clipped, columns, known


def _title(part: Part, unit: Unit) -> str:
    return f"source {clipped(part.name, 60)}" if part.kind == "source" else part.title(unit)


def accuracy_chart(evaluations: Mapping[str, Mapping[str, Any]], unit: Unit = OPENING) -> Chart:
    """Return accuracies with their intervals: a row a part, a series a model."""
    titles = list(dict.fromkeys(_title(part, unit) for one in evaluations.values() for part in parts_of(one)))
    series = []
    for name, evaluation in evaluations.items():
        estimates = {_title(part, unit): part.estimates["accuracy"] for part in parts_of(evaluation)}
        rows = [title for title in titles if title in estimates]
        intervals = [estimates[title]["interval"] or (np.nan, np.nan) for title in rows]
        low, high = np.asarray(intervals, np.float64).T
        y = np.asarray([_number(estimates[title]["value"]) for title in rows])
        series.append(Series(name, np.asarray([titles.index(t) for t in rows], np.float64), y, low, high))
    told = "; ".join(f"{name}: {_told(one)}" for name, one in evaluations.items())
    title = f"Accuracy, with 95% intervals over {unit.several}"
    marks = [Mark("y", 0.5, "chance")]
    return Chart(
        "accuracy",
        title,
        "intervals",
        x_label="pairs",
        y_label="accuracy (ties ½)",
        series=series,
        told=f"{told}.",
        categories=titles,
        marks=marks,
        format="percent",
    )


def _told(evaluation: Mapping[str, Any]) -> str:
    told = f"{_share(evaluation['all']['unweighted'])} of every pair"
    bins = evaluation["bins"]
    if len(bins) > 1:
        first, last = min(bins, key=int), max(bins, key=int)
        told += f", {_share(bins[first]['balanced'])} in {bin_name(first)} and {_share(bins[last]['balanced'])} in "
        told += bin_name(last)
    return told


def _share(estimates: Mapping[str, Any]) -> str:
    value = _value(estimates, "accuracy")
    return "not known" if value is None else f"{value:.1%}"


def evaluation_table(evaluations: Mapping[str, Mapping[str, Any]], unit: Unit = OPENING) -> Table:
    """Return all estimates of several models: a row a model and part."""
    head = columns(
        {
            "model": "text",
            "pairs that count": "text",
            "pairs": "count",
            unit.several: "count",
            "accuracy": "percent",
            "from": "percent",
            "to": "percent",
            "margin": "number",
            "log-loss": "number",
            "ECE": "percent",
            "longer wins": "percent",
        }
    )
    rows = []
    for name, evaluation in evaluations.items():
        for part in parts_of(evaluation):
            counts, estimates = part.counts, part.estimates
            interval = estimates["accuracy"]["interval"] or (None, None)
            values = [_value(estimates, metric) for metric in ("margin", "log_loss", "ece", "longer_wins")]
            accuracy = _value(estimates, "accuracy")
            rows.append((name, _title(part, unit), counts["pairs"], counts["openings"], accuracy, *interval, *values))
    return Table(f"Accuracy by part; bins and sources count every {unit.one} alike", head, rows)


def difference_tables(name: str, facts: Mapping[str, Any], unit: Unit = OPENING) -> list[Table]:
    """Return the comparison of two models; without one, that of each with guessing by length."""
    files, comparison = facts["files"], facts["comparison"]
    if comparison is not None:
        title = f"{name}: accuracy of {clipped(files[0], 60)} minus {clipped(files[1], 60)}"
        return [_differences(title, comparison, facts["evaluations"][0], unit)]
    title = "minus that of guessing that the longer completion wins"
    return [
        _differences(f"{name}: accuracy of {clipped(file, 60)} {title}", longer, evaluation, unit)
        for file, longer, evaluation in zip(files, facts["against_longer_wins"], facts["evaluations"], strict=True)
        if longer is not None
    ]


def _differences(title: str, comparison: Mapping[str, Any], evaluation: Mapping[str, Any], unit: Unit) -> Table:
    parts = [(_title(part, unit), part.difference(comparison)) for part in compared_parts(evaluation)]
    head = columns(
        {
            "pairs that count": "text",
            "difference": "points",
            "from": "points",
            "to": "points",
            "p": "number",
            "detectable": "points",
        }
    )
    rows = [
        (told, d["difference"], *(d["interval"] or (None, None)), d["p"], d["minimum_detectable_effect"])
        for told, d in parts
    ]
    return Table(title, head, rows)


def _value(estimates: Mapping[str, Any], metric: str) -> float | None:
    return known(estimates[metric]["value"]) if metric in estimates else None


def _number(value: float | None) -> float:
    return np.nan if value is None else value
