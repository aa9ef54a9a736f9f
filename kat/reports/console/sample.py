"""What `kat sample` drew, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def sample_summary(drawn: int, probabilities: Sequence[float]) -> str:
    """Say in one line how many openings were drawn, of how many; `probabilities` are those of all."""
    certain = sum(one >= 1 for one in probabilities)
    return f"{drawn:,} of {len(probabilities):,} openings, {certain:,} of them for certain"


def sample_lines(probabilities: Path) -> list[str]:
    """Say where the inclusion probabilities are."""
    return [f"  every opening's inclusion probability → {probabilities}"]
