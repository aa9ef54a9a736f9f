"""Accuracy of reward models by density bin and source, with intervals; several side by side, and their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kat.reports.blocks import Chart, Mark, Series, Table
from kat.reports.console.evaluate_rm import SOURCES
from kat.reports.sections.parts import bin_name, clipped, columns, known

VIEWS = {"unweighted": "every pair", "balanced": "every opening"}


def parts_of(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the parts of an evaluation: title, counts, estimates. All pairs by both views, the mean of the bins, then
    bins and, if there are several, the largest sources, which count every opening alike."""
    every = evaluation["all"]
    for view, title in VIEWS.items():
        yield title, every, every[view]
    if evaluation["macro"] is not None:
        yield "every density bin", every, evaluation["macro"]
    for b, part in evaluation["bins"].items():
        yield bin_name(b), part, part["balanced"]
    if len(evaluation["sources"]) > 1:
        for name, part in list(evaluation["sources"].items())[:SOURCES]:
            yield f"source {clipped(name, 60)}", part, part["balanced"]


def accuracy_chart(evaluations: Mapping[str, Mapping[str, Any]]) -> Chart:
    """Return accuracies with their intervals: a row a part, a series a model."""
    titles = list(dict.fromkeys(title for one in evaluations.values() for title, *_ in parts_of(one)))
    series = []
    for name, evaluation in evaluations.items():
        estimates = {title: part["accuracy"] for title, _, part in parts_of(evaluation)}
        rows = [title for title in titles if title in estimates]
        intervals = [estimates[title]["interval"] or (np.nan, np.nan) for title in rows]
        low, high = np.asarray(intervals, np.float64).T
        y = np.asarray([_number(estimates[title]["value"]) for title in rows])
        series.append(Series(name, np.asarray([titles.index(t) for t in rows], np.float64), y, low, high))
    told = "; ".join(f"{name}: {_told(one)}" for name, one in evaluations.items())
    title = "Accuracy, with 95 % intervals over openings"
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


def evaluation_table(evaluations: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return all estimates of several models: a row a model and part."""
    head = columns(
        {
            "model": "text",
            "pairs that count": "text",
            "pairs": "count",
            "openings": "count",
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
        for title, counts, estimates in parts_of(evaluation):
            interval = estimates["accuracy"]["interval"] or (None, None)
            values = [_value(estimates, metric) for metric in ("margin", "log_loss", "ece", "longer_wins")]
            accuracy = _value(estimates, "accuracy")
            rows.append((name, title, counts["pairs"], counts["openings"], accuracy, *interval, *values))
    return Table("Accuracy by part; bins and sources count every opening alike", head, rows)


def difference_tables(name: str, facts: Mapping[str, Any]) -> list[Table]:
    """Return the comparison of two models; without one, that of each with guessing by length."""
    files, comparison = facts["files"], facts["comparison"]
    if comparison is not None:
        title = f"{name}: accuracy of {clipped(files[0], 60)} minus {clipped(files[1], 60)}"
        return [_differences(title, comparison, facts["evaluations"][0])]
    title = "minus that of guessing that the longer completion wins"
    return [
        _differences(f"{name}: accuracy of {clipped(file, 60)} {title}", longer, evaluation)
        for file, longer, evaluation in zip(files, facts["against_longer_wins"], facts["evaluations"], strict=True)
        if longer is not None
    ]


def _differences(title: str, comparison: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Table:
    parts = [(told, comparison["all"][view]["accuracy"]) for view, told in VIEWS.items()]
    parts += [(bin_name(b), comparison["bins"][b]["balanced"]["accuracy"]) for b in evaluation["bins"]]
    if len(evaluation["sources"]) > 1:
        names = list(evaluation["sources"])[:SOURCES]
        parts += [(f"source {clipped(s, 60)}", comparison["sources"][s]["balanced"]["accuracy"]) for s in names]
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
