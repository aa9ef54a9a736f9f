"""An evaluation in tables for people. Unweighted first; then every opening alike; then every bin alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kat.records import OPENING, Unit
from kat.reports.console.pays import pay_lines
from kat.reports.console.text import printable
from kat.reports.evaluation_parts import SOURCES, Part, compared_parts, parts_of

_HEAD = f"  {'accuracy':<22}{'margin':>8}{'log-loss':>10}{'ECE':>7}{'longer wins':>13}"


def evaluation_summary(facts: Mapping[str, Any], unit: Unit = OPENING) -> str:
    """Say in one line how many pairs were evaluated."""
    counts = facts["evaluations"][0]["all"]
    return f"{counts['pairs']:,} pairs of {unit.count(counts['openings'])}"


def evaluation_lines(facts: Mapping[str, Any], unit: Unit = OPENING) -> list[str]:
    """Return tables of each model, then of their difference; without a second one, of that to guessing by length."""
    lines: list[str] = []
    head = f"  {'':<22}{'pairs':>8}{unit.several:>9}{_HEAD}"
    files, evaluations, comparison = facts["files"], facts["evaluations"], facts["comparison"]
    for name, evaluation in zip(files, evaluations, strict=True):
        lines += ["", f"  {printable(name, 90)}", head, *_model_lines(evaluation, unit)]
    if comparison is not None:
        first, second = (printable(name, 40) for name in files)
        lines += ["", f"  accuracy of {first} minus {second}", *_difference_lines(comparison, evaluations[0], unit)]
        return [*lines, *_paying(facts), "", *_notes(facts, unit)]
    for name, to_longer, evaluation in zip(files, facts["against_longer_wins"], evaluations, strict=True):
        if to_longer is not None:
            title = f"  accuracy of {printable(name, 40)} minus that of guessing that the longer completion wins"
            lines += ["", title, *_difference_lines(to_longer, evaluation, unit)]
    return [*lines, *_paying(facts), "", *_notes(facts, unit)]


def _paying(facts: Mapping[str, Any]) -> list[str]:
    """Who pays for the weights of the pairs that train."""
    pays = facts.get("pays") or {}
    return ["", "  the pairs that train, and their weights", *pay_lines(pays)] if pays else []


def _model_lines(evaluation: Mapping[str, Any], unit: Unit) -> Iterator[str]:
    for part in parts_of(evaluation):
        yield _row(_title(part, unit), part.counts["pairs"], part.counts["openings"], part.estimates)


def _title(part: Part, unit: Unit) -> str:
    """The title of a part's row; what is not of all pairs is indented."""
    if part.kind == "source":
        return f"  {printable(part.name, 19)}"
    return f"  {part.title()}" if part.kind == "bin" else part.title(unit)


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
    return f"{estimate['value']:.1%}{between}"


def _difference_lines(comparison: Mapping[str, Any], evaluation: Mapping[str, Any], unit: Unit) -> Iterator[str]:
    """Yield a comparison's table, in the order in which the evaluation holds its parts."""
    yield f"  {'':<22}{'points':>9}  {'95% interval':<18}{'p':>8}{'detectable':>13}"
    for part in compared_parts(evaluation):
        yield _difference(_title(part, unit), part.difference(comparison))


def _difference(title: str, difference: Mapping[str, Any]) -> str:
    interval, least = difference["interval"], difference["minimum_detectable_effect"]
    between = "–" if interval is None else f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"
    seen = "–" if least is None else f"± {100 * least:.1f}"
    return f"  {title:<22}{100 * difference['difference']:>+9.1f}  {between:<18}{difference['p']:>8.4f}{seen:>13}"


def _notes(facts: Mapping[str, Any], unit: Unit) -> list[str]:
    lines = [
        f"  Bins and sources count every {unit.one} alike. Intervals: 95%, {unit.several} drawn with replacement.",
    ]
    if any(to_longer is not None for to_longer in facts["against_longer_wins"]) or facts["comparison"]:
        lines.append(
            f"  p: signs of {unit.several}' differences flipped; detectable: what would be found 4 times in 5 at "
            "p < 0.05."
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
