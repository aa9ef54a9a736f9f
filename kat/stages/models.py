"""What models there are: bundled ones, and nanochat's checkpoints."""

from __future__ import annotations

from kat.config import base_directory
from kat.models.catalog import found_models
from kat.reports.console.models import model_lines
from kat.terminal import show, tell_figures


def list_models() -> None:
    """Print the models that names lead to, with format version, dimension and step."""
    models = found_models()
    show(*model_lines(models))
    tell_figures(models=models, base_directory=base_directory())
    show(f"  nanochat's checkpoints are looked for in {base_directory()}; any local directory does as well.")
