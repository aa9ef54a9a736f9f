"""What `kat run` says of openings with several contexts."""

from __future__ import annotations

from kat.density.contexts import ContextSpread


def context_summary(several: int) -> str:
    """Say in one line how many openings have several contexts."""
    return f"{several:,} openings have several contexts"


def context_lines(spread: ContextSpread) -> list[str]:
    """Say how far contexts of one opening lie apart, and what follows."""
    lines = [
        f"  two contexts of one opening are {spread.within:.2f} apart (median of {spread.openings:,} openings), "
        f"an opening and its nearest other {spread.nearest:.2f}"
    ]
    if spread.apart:
        lines.append("  contexts differ more than openings do: weigh them by themselves, with --unit context")
    return lines
