"""Plug-in folders: one file a plug-in, found by its folder, its row of facts under the name PLUGIN.

The names are the files' names, so that options can list their choices without importing a plug-in, and configuration
learns them without importing upward. A file whose name starts with an underscore is no plug-in.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from kat.errors import OptionError

ESTIMATORS = "density.estimators"
EXPORTS = "integrations.exports"
FORMATS = "data.formats"
POOLINGS = "embedding.pooling"
SOURCES = "models.sources"


@cache
def names(folder: str) -> tuple[str, ...]:
    """The plug-ins of a folder of kat, as in "density.estimators", in alphabetical order. Imports none of them."""
    path = Path(__file__).parent.joinpath(*folder.split("."))
    return tuple(sorted(file.stem for file in path.glob("*.py") if not file.stem.startswith("_")))


def check_name(option: str, name: object, folder: str) -> None:
    """Raise OptionError, listing the choices, unless a plug-in of the folder has this name."""
    if name not in names(folder):
        raise OptionError(f"{option} is {name!r}; expected {', '.join(names(folder))}.")


def load(folder: str, name: str) -> Any:
    """The row of one plug-in. Raises OptionError for an unknown name."""
    check_name(folder.rpartition(".")[2].removesuffix("s"), name, folder)
    return import_module(f"kat.{folder}.{name}").PLUGIN


def load_all(folder: str) -> dict[str, Any]:
    """The rows of all plug-ins of a folder, by the names of their files."""
    return {name: load(folder, name) for name in names(folder)}
