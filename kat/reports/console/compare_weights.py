"""How far the weights of two runs agree, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kat.data.headings import Heading
from kat.density.agreement import Agreement, Moved
from kat.records import OPENING, Unit
from kat.reports.console.text import heading_text, printable

DIFFERENCES = 8
"""Options that are named as differing."""


def agreement_lines(
    one: Agreement,
    openings: Mapping[str, Heading],
    unit: Unit = OPENING,
    *,
    differences: Mapping[str, tuple[Any, Any]] | None = None,
    width: int = 100,
) -> list[str]:
    """For people: what is in both, how alike the weights are there, and what moved most, in lines of a width.

    `openings` are the texts of those that moved, by id; `differences` the options in which the runs differ.
    """
    r = one.rank_correlation
    lines = [
        *_difference_lines(differences or {}, width),
        f"  {unit.several} in both           {one.both:>9,}",
        f"  in the first alone         {one.only[0]:>9,}",
        f"  in the second alone        {one.only[1]:>9,}",
        f"  rank correlation           {'none: one weighs all of them alike' if r is None else f'{r:>9.3f}'}",
    ]
    if one.overlap is not None:
        lines.append(f"  heaviest tenth in common   {one.overlap:>9.1%} ({one.expected_overlap:.1%} by chance)")
    lines.append(f"  weight that moves          {one.moved:>9.1%}")
    if not one.up and not one.down:
        lines.append(f"  none of the {unit.several} moved in rank")
    for way, moved in (("up", one.up), ("down", one.down)):
        if moved:
            lines.append(f"  the {len(moved)} that moved {way} most")
        lines += [line for each in moved for line in _moved_lines(each, openings, width)]
    return lines


def _difference_lines(differences: Mapping[str, tuple[Any, Any]], width: int) -> list[str]:
    """What was asked of the two runs that differs."""
    named = list(differences.items())
    lines = [
        f"  {printable(name, 24):<26} {printable(str(a), width // 4)}, then {printable(str(b), width // 4)}"
        for name, (a, b) in named[:DIFFERENCES]
    ]
    if len(named) > DIFFERENCES:
        lines.append(f"  … {len(named) - DIFFERENCES:,} more options differ")
    return lines


def _moved_lines(one: Moved, openings: Mapping[str, Heading], width: int) -> Sequence[str]:
    heading = openings.get(one.id)
    weights = f"{one.weights[0]:7.3f} → {one.weights[1]:<7.3f}"
    places = f"rank {one.ranks[0]:,.0f} → {one.ranks[1]:,.0f}"
    lines = [f"    {weights} {places}  {printable(one.id, 40)}"]
    if heading is not None:
        lines.append(f"      {heading_text(heading.opening, heading.later, width - 6)}")
    return lines
