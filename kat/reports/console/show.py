"""What `kat show` says of weights: the heaviest and the lightest, and who pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kat.data.headings import Heading
from kat.density.extremes import Extreme
from kat.pair_weights.facts import paying_parts
from kat.records import OPENING, Unit
from kat.reports.console.density import nearest_lines
from kat.reports.console.pays import COLUMNS, pay_lines
from kat.reports.console.text import heading_text, printable

NAMED = 10
"""Parts that are named as paying."""
_ID = 32
"""Letters of an id that are shown: those of kat's own have 16."""


def extreme_lines(
    heaviest: Sequence[Extreme],
    lightest: Sequence[Extreme],
    openings: Mapping[str, Heading],
    unit: Unit = OPENING,
    width: int = 100,
) -> list[str]:
    """Return those that weigh most and least, each with its nearest others; `openings` are their texts by id."""

    def shown(name: str, room: int) -> str:
        heading = openings.get(name, Heading(""))
        return heading_text(heading.opening, heading.later, max(room, 16))

    lines = []
    for kind, extremes in (("heaviest", heaviest), ("lightest", lightest)):
        if not extremes:
            continue
        near = ", each with its nearest others" if any(one.nearest for one in extremes) else ""
        lines.append(f"  the {len(extremes)} {kind} {unit.several}{near}")
        for one in extremes:
            name = printable(one.id, _ID)
            lines.append(f"    {one.weight:7.3f}  {name}  {shown(one.id, width - len(name) - 15)}".rstrip())
            room = width - max([len(other) for other, _ in one.nearest], default=0) - 20
            lines += [f"    {line}".rstrip() for line in nearest_lines(one.nearest, shown, room)]
    return lines


def share_lines(pays: Mapping[str, Sequence[Mapping[str, Any]]], counted: str = "pairs", width: int = 100) -> list[str]:
    """Return the share of the weight against that of the pairs by column, then who pays, in words.

    `pays` are of `kat.pair_weights.facts.pay_facts`, with the column "bin" and perhaps "src" and others.
    """
    lines = pay_lines(pays, counted, min(width - 35 - len(counted), 48))
    lines += [
        f"  all {counted} are of one {COLUMNS.get(column, printable(column, 30))}, {_value(parts[0])}"
        for column, parts in pays.items()
        if len(parts) == 1
    ]
    return [*lines, "", *paying_lines(pays, counted)]


def paying_lines(pays: Mapping[str, Sequence[Mapping[str, Any]]], counted: str = "pairs") -> list[str]:
    """Say who has less than half of their share of the weight, those with most pairs first; or that nobody has."""
    if not pays:
        return ["  nobody pays: all weights are the same"]
    paying = [(column, one) for column, parts in pays.items() for one in paying_parts(parts)]
    paying.sort(key=lambda each: -each[1]["share_of_pairs"])
    if not paying:
        names = " and ".join(COLUMNS.get(column, printable(column, 30)) for column in pays)
        return ["  nobody pays that much:", f"  each {names} has half of its share or more"]
    lines = [
        f"  {_named(column, one)} has {_percent(one['share_of_pairs'])} of the {counted} "
        f"and {_percent(one['share_of_weight'])} of the weight"
        for column, one in paying[:NAMED]
    ]
    if len(paying) > NAMED:
        lines.append(f"  … and {len(paying) - NAMED:,} more have less than half of their share")
    return lines


def _named(column: str, part: Mapping[str, Any]) -> str:
    """A value with what it is of: 'density bin 4', 'source "x"'."""
    if column == "bin":
        return f"density {part['value']}"
    return f"{COLUMNS.get(column, printable(column, 30))} {_value(part)}"


def _value(part: Mapping[str, Any]) -> str:
    return f'"{printable(part["value"], 40)}"' if part["value"] else "(none)"


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "less than 0.1%"
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"
