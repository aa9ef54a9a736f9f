"""List the models that names lead to, for `kat models`."""

from __future__ import annotations

from kat.models.sources import Found, all_sources


def found_models() -> list[Found]:
    """Return what every source lists: bundled models first, then nanochat's by name, depth and step."""
    return [model for source in all_sources() for model in source.catalog()]
