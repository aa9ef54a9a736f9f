"""What `kat models` prints."""

from __future__ import annotations

from collections.abc import Sequence

from kat.models.sources import Found


def model_lines(models: Sequence[Found]) -> list[str]:
    """Return a table for people, a line or two a model."""
    lines = [f"  {'name':<26}{'size':>9}{'version':>9}{'dimension':>11}{'step':>8}  where"]
    for model in models:
        size = f"{model.size / 1e6:,.0f} MB" if model.size else "–"
        step = "–" if model.step is None else model.step
        cells = f"{model.format_version or '–':>9}{model.dimension or '–':>11}{step:>8}"
        lines.append(f"  {model.name:<26}{size:>9}{cells}  {model.path if model.size else ''}")
        if model.note:
            lines.append(f"  {'':<26}  {model.note}")
    return lines
