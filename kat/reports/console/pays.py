"""Who pays for weights, in words: for every report of something that was trained with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.reports.console.text import printable

PAYING = 4
"""Values of a column that are shown from either end."""
_NAMES = {"src": "source", "bin": "density bin"}


def pay_lines(pays: Mapping[str, list[Mapping[str, Any]]]) -> list[str]:
    """Say who pays: what each value of some columns has of the pairs and of the weight, those that lose most first.

    `pays` are of `kat.pair_weights.facts.pay_facts`; a column of one value has nobody to pay for another.
    """
    lines = []
    for column, parts in pays.items():
        if len(parts) < 2:
            continue
        name = _NAMES.get(column, column)
        lines += ["", f"  {name:<48}{'pairs':>9}{'of pairs':>10}{'of weight':>11}{'mean v':>8}"]
        shown = parts if len(parts) <= 2 * PAYING else [*parts[:PAYING], None, *parts[-PAYING:]]
        for one in shown:
            if one is None:
                lines.append(f"  … {len(parts) - 2 * PAYING:,} more in the JSON")
                continue
            mean = one["share_of_weight"] / one["share_of_pairs"]
            lines.append(
                f"  {printable(one['value'], 46) or '(none)':<48}{one['pairs']:>9,}{one['share_of_pairs']:>10.1%}"
                f"{one['share_of_weight']:>11.1%}{mean:>8.2f}"
            )
    return lines
