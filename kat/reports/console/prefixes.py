"""What `kat prefixes` did, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kat.records import CONTEXT, OPENING, Unit
from kat.reports.console.text import printable


def prefix_summary(stats: Mapping[str, Any], unit: Unit = OPENING) -> str:
    """Say in one line what was made of what."""
    return f"{stats['pairs']:,} pairs → {unit.count(stats['openings'])}"


def prefix_lines(stats: Mapping[str, Any], unit: Unit = OPENING) -> list[str]:
    """Describe what `prefixes_all.stats.json` holds."""
    lines = [
        f"  format                           {'; '.join([stats['shape'], *stats.get('inside_text', ())])}",
        f"  pairs                            {stats['pairs']:,}",
        f"  {unit.several:<33}{stats['openings']:,}",
        f"  share removed                    {stats['share_removed']:.1%}",
    ]
    if unit is not CONTEXT:
        lines.append(f"  openings with several contexts   {stats['openings_with_several_contexts']:,}")
    if stats["bad_rows"]:
        lines.append(f"  bad rows set aside               {stats['bad_rows']:,}")
    lines += [f"  dropped: {printable(name, 80)}   {n:,}" for name, n in stats.get("dropped", {}).items()]
    lines += [f"  kept: {printable(name, 120)}   {n:,}" for name, n in stats["kept"].items()]
    if unread := stats.get("columns_not_read"):
        columns = [f"{printable(name, 40)} ({n:,} rows)" for name, n in unread.items()]
        more = [f"and {len(columns) - 20:,} more"] if len(columns) > 20 else []
        lines.append(f"  columns not read: {', '.join([*columns[:20], *more])}")
    sources = Counter(stats["rows_by_source"]).most_common()
    lines.append("  rows by source")
    lines += [f"    {n:>9,}  {printable(name, 80)}" for name, n in sources[:20]]
    if len(sources) > 20:
        lines.append(f"    {sum(n for _, n in sources[20:]):>9,}  in {len(sources) - 20:,} more sources")
    return lines
