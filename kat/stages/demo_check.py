"""Do the demo's weights recover the rarity of its topics?"""

from __future__ import annotations

from pathlib import Path

from kat.demo.check import check_demo
from kat.reports.console.demo_check import demo_check_lines
from kat.terminal import show, tell_figures


def demo_check(pairs: Path, run: Path) -> bool:
    """Print the topics with their weights; return whether these recover the topics' rarity."""
    check = check_demo(pairs, run)
    show(*demo_check_lines(check), f"results: {run}")
    tell_figures(check=check, recovered=check.recovered)
    return check.recovered
