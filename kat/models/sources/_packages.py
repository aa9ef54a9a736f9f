"""Models that come in a package of the index: found without being imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from kat.errors import MissingExtraError
from kat.models.sources import Found


def package_folder(module: str) -> Path | None:
    """Return the folder of an installed package, or None. Such packages would load half the world if imported."""
    spec = importlib.util.find_spec(module)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def not_installed(name: str, command: str) -> MissingExtraError:
    """Return the error for a bundled model whose package is not there."""
    return MissingExtraError(
        f"The bundled model {name} is not installed. Type: {command}  (or name a local model directory)"
    )


def listed(name: str, weights: Callable[[], tuple[Path, Path]], dimension: int, command: str) -> Iterator[Found]:
    """Yield the row of `kat models`. `weights` finds the place to show and the file whose size counts."""
    try:
        path, file = weights()
    except MissingExtraError:
        yield Found(name, Path(), 0, note=f"Type: {command}")
        return
    yield Found(name, path, file.stat().st_size, dimension=dimension)
