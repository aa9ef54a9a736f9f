"""An evaluation in tables for people. Unweighted first; then every opening alike; then every bin alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kat.reports.console.pays import pay_lines
from kat.reports.console.text import printable

SOURCES = 20
"""The largest sources, which get a line each."""
_VIEWS = {"unweighted": "every pair", "balanced": "every opening"}
_HEAD = (
    f"  {'':<22}{'pairs':>8}{'openings':>9}  {'accuracy':<22}{'margin':>8}{'log-loss':>10}{'ECE':>7}{'longer wins':>13}"
)


def evaluation_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return tables of each model, then of their difference; without a second one, of that to guessing by length."""
    lines: list[str] = []
    files, evaluations, comparison = facts["files"], facts["evaluations"], facts["comparison"]
    for name, evaluation in zip(files, evaluations, strict=True):
        lines += ["", f"  {printable(name, 90)}", _HEAD, *_model_lines(evaluation)]
    if comparison is not None:
        first, second = (printable(name, 40) for name in files)
        lines += ["", f"  accuracy of {first} minus {second}", *_difference_lines(comparison, evaluations[0])]
        return [*lines, *_paying(facts), "", *_notes(facts)]
    for name, to_longer, evaluation in zip(files, facts["against_longer_wins"], evaluations, strict=True):
        if to_longer is not None:
            title = f"  accuracy of {printable(name, 40)} minus that of guessing that the longer completion wins"
            lines += ["", title, *_difference_lines(to_longer, evaluation)]
    return [*lines, *_paying(facts), "", *_notes(facts)]


def _paying(facts: Mapping[str, Any]) -> list[str]:
    """Who pays for the weights of the pairs that train."""
    pays = facts.get("pays") or {}
    return ["", "  the pairs that train, and their weights", *pay_lines(pays)] if pays else []


def _model_lines(evaluation: Mapping[str, Any]) -> Iterator[str]:
    every = evaluation["all"]
    for view, title in _VIEWS.items():
        yield _row(title, every["pairs"], every["openings"], every[view])
    if evaluation["macro"] is not None:
        yield _row("every density bin", every["pairs"], every["openings"], evaluation["macro"])
    for title, part in parts_of(evaluation):
        yield _row(title, part["pairs"], part["openings"], part["balanced"])


def parts_of(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield density bins and sources with their titles; sources only if there are several, the largest ones."""
    for b, part in evaluation["bins"].items():
        yield bin_title(b), part
    if len(evaluation["sources"]) > 1:
        for name, part in list(evaluation["sources"].items())[:SOURCES]:
            yield f"  {printable(name, 19)}", part


def bin_title(b: str) -> str:
    """Return the title of a density bin, indented under its table."""
    return {"-1": "  no density", "0": "  bin 0, rarest", "4": "  bin 4, most crowded"}.get(b, f"  bin {b}")


def _row(title: str, pairs: int, openings: int, estimates: Mapping[str, Any]) -> str:
    longer = estimates.get("longer_wins")
    margin, loss, ece = (estimates[name]["value"] for name in ("margin", "log_loss", "ece"))
    return (
        f"  {title:<22}{pairs:>8,}{openings:>9,}  {percent(estimates['accuracy']):<22}{margin:>8.3f}{loss:>10.3f}"
        f"{ece:>7.3f}{'' if longer is None else format(longer['value'], '.1%'):>13}"
    )


def percent(estimate: Mapping[str, Any]) -> str:
    """Return a share in per cent, with its interval if it has one."""
    interval = estimate["interval"]
    between = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * estimate['value']:.1f} %{between}"


def _difference_lines(comparison: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yield a comparison's table, in the order in which the evaluation holds its parts."""
    yield f"  {'':<22}{'points':>9}  {'95 % interval':<18}{'p':>8}{'detectable':>13}"
    for view, title in _VIEWS.items():
        yield _difference(title, comparison["all"][view]["accuracy"])
    for b in evaluation["bins"]:
        yield _difference(bin_title(b), comparison["bins"][b]["balanced"]["accuracy"])
    if len(evaluation["sources"]) > 1:
        for name in list(evaluation["sources"])[:SOURCES]:
            yield _difference(f"  {printable(name, 19)}", comparison["sources"][name]["balanced"]["accuracy"])


def _difference(title: str, difference: Mapping[str, Any]) -> str:
    interval, least = difference["interval"], difference["minimum_detectable_effect"]
    between = "–" if interval is None else f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"
    seen = "–" if least is None else f"± {100 * least:.1f}"
    return f"  {title:<22}{100 * difference['difference']:>+9.1f}  {between:<18}{difference['p']:>8.4f}{seen:>13}"


def _notes(facts: Mapping[str, Any]) -> list[str]:
    lines = [
        "  Bins and sources count every opening alike. Intervals: 95 %, openings drawn with replacement.",
    ]
    if any(to_longer is not None for to_longer in facts["against_longer_wins"]) or facts["comparison"]:
        lines.append(
            "  p: signs of openings' differences flipped; detectable: what would be found 4 times in 5 at p < 0.05."
        )
    evaluation = facts["evaluations"][0]
    if not evaluation["bins"]:
        lines.append("  No density bins: name the pairs' weights with --pair_weights RUN/pair_weights.parquet.")
    if facts["pairs_without_opening"]:
        lone = f"{facts['pairs_without_opening']:,} pairs have no opening_id or prompt"
        lines.append(f"  {lone}: each counts as an opening of its own.")
    if facts["pairs_without_scores"]:
        lines.append(f"  {facts['pairs_without_scores']:,} pairs have no reward and are left out.")
    if len(evaluation["sources"]) > SOURCES:
        lines.append(f"  {len(evaluation['sources']) - SOURCES:,} more sources are in evaluation.json.")
    return lines
