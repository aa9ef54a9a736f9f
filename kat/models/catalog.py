"""List the models that names lead to, for `kat models`."""

from __future__ import annotations

from dataclasses import replace

from kat.errors import ModelError
from kat.models.own_code import own_code
from kat.models.sources import Found, all_sources


def found_models() -> list[Found]:
    """Return what every source lists: bundled models first, then nanochat's by name, depth and step."""
    return [_with_note(model) for source in all_sources() for model in source.catalog()]


def _with_note(model: Found) -> Found:
    """Say of a model whose files name code of its makers that it is not run."""
    if model.note:
        return model
    try:
        named = [name for names in own_code(model.path).values() for name in names]
    except ModelError as error:
        return replace(model, note=str(error))
    if not named:
        return model
    return replace(model, note=f"names code of its own, which kat never runs: {', '.join(named)}")
