"""Compare how deep a config.json wants its model with the weights beside it, before transformers builds the layers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kat.errors import ModelError
from kat.folders import entries
from kat.models.own_code import COPY_AGAIN, read_settings

_COUNTS = re.compile(r"(\w+_)?(n|num|inner)_(\w+_)?(layers?|labels|groups?|group_num|blocks?)|\w+coder_layers|depth")
"""The settings that say how many of something is built one after the other, as transformers' models name them."""
_USUAL = 512
"""A count that is built without asking: models that share their layers have fewer weights than layers."""


def check_depth(folder: Path) -> None:
    """Raise ModelError if config.json asks for more layers than the files hold tensors.

    transformers builds what a config asks for before it looks at the weights, and a damaged number keeps it busy for
    ever.
    """
    settings = read_settings(folder / "config.json")
    too_many = {name: count for name, count in _counts(settings) if count > _USUAL}
    if not too_many:
        return
    tensors = _tensors(folder)
    for name, count in too_many.items():
        if tensors is not None and count > tensors:
            raise ModelError(
                f"{folder / 'config.json'}: {name} is {count:,}, but the files beside it hold {tensors:,} tensors. "
                f"{COPY_AGAIN}"
            )


def _counts(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the counts of layers and the like, those of nested settings too."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif isinstance(value, int | float) and _COUNTS.fullmatch(name):
            yield name, int(min(value, 2**62))


def _tensors(folder: Path) -> int | None:
    """Return how many tensors the weights in a folder hold; None where a file does not tell without being loaded."""
    from safetensors import SafetensorError, safe_open

    count = 0
    try:
        files = entries(folder, "*.safetensors")
        for path in files:
            with safe_open(path, "np") as weights:
                count += len(list(weights.keys()))
        for path in [] if files else entries(folder, "pytorch_model*.bin"):
            with zipfile.ZipFile(path) as archive:  # one member for each tensor, and a few more
                count += len(archive.namelist())
    except (OSError, SafetensorError, zipfile.BadZipFile):
        return None
    return count
