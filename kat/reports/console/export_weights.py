"""What `kat export-weights` wrote, in words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def export_summary(trains: int, validates: int, to: str) -> str:
    """Say in one line how many pairs were exported, for whom."""
    return f"{trains:,} training and {validates:,} validation pairs for {to}"


def file_lines(out: Path, names: Iterable[str]) -> list[str]:
    """Return a line for each file."""
    return [f"  {out / name}" for name in sorted(names)]
