"""Who pays for weights, in words: for every report of something that was trained with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kat.reports.console.text import printable
from kat.reports.evaluation_parts import bin_name

PAYING = 4
"""Values of a column that are shown from either end."""
COLUMNS = {"src": "source", "bin": "density bin"}
"""What people call columns that have a name of their own."""


def pay_lines(pays: Mapping[str, Sequence[Mapping[str, Any]]], counted: str = "pairs", width: int = 48) -> list[str]:
    """Say who pays: what each value of some columns has of the pairs and of the weight, those that lose most first.

    `pays` are of `kat.pair_weights.facts.pay_facts`; a column of one value has nobody to pay for another. What is
    `counted` may be something else than pairs, and `width` is that of the first column.
    """
    lines, share = [], len(counted) + 5
    for column, parts in pays.items():
        if len(parts) < 2:
            continue
        name = COLUMNS.get(column, column)
        lines += ["", f"  {name:<{width}}{counted:>9}{f'of {counted}':>{share}}{'of weight':>11}{'mean v':>8}"]
        shown: Sequence[Mapping[str, Any] | None]
        shown = parts if len(parts) <= 2 * PAYING else [*parts[:PAYING], None, *parts[-PAYING:]]
        for one in shown:
            if one is None:
                lines.append(f"  … {len(parts) - 2 * PAYING:,} more in the JSON")
                continue
            mean = one["share_of_weight"] / one["share_of_pairs"]
            value = bin_name(one["value"].removeprefix("bin ")) if column == "bin" else one["value"]
            lines.append(
                f"  {printable(value, width - 2) or '(none)':<{width}}{one['pairs']:>9,}"
                f"{one['share_of_pairs']:>{share}.1%}"
                f"{one['share_of_weight']:>11.1%}{mean:>8.2f}"
            )
    return lines
