"""Find the directory of a model by its name. One file a source, found by its folder, each with its row in PLUGIN.

The network is touched only for a hub name and only when allowed: a mistyped path never reaches it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kat.errors import ModelError
from kat.plugins import SOURCES, load_all


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies. `sha256`, if set, is what its weight file must hash to."""

    name: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class Found:
    """A model that a name leads to. `size` is in bytes; `note` says what is wrong with it, if anything is."""

    name: str
    path: Path
    size: int
    format_version: str = ""
    dimension: int | None = None
    step: int | None = None
    note: str = ""


def _accepts_nothing(name: str) -> bool:
    return False


def _lists_nothing() -> Iterator[Found]:
    return iter(())


@dataclass(frozen=True)
class Source:
    """A kind of place that models come from: the row of a plug-in.

    A name is looked for in three rounds, and no two rows answer to it in the same one: the exact `names` and
    `families`; then FAMILY/REST of a family, unless such a path exists; then what `accepts` says.
    """

    name: str
    help: str
    find: Callable[[str, bool], ModelSource]
    """From a name, and whether the network may be used. Raises ModelError, or MissingExtraError."""
    names: tuple[str, ...] = ()
    """Names that belong to it whatever lies beside them."""
    families: tuple[str, ...] = ()
    """Names like `names` that may go on after a slash."""
    accepts: Callable[[str], bool] = _accepts_nothing
    catalog: Callable[[], Iterator[Found]] = _lists_nothing
    """What `kat models` lists of it."""
    needs: str = ""
    """The command that installs the package that its model comes in, "" for none. Bundled models are listed first."""


def all_sources() -> list[Source]:
    """Return the rows of all sources: those of installed packages first, then by name."""
    return sorted(load_all(SOURCES).values(), key=lambda row: (not row.needs, row.name))


def known_names() -> list[str]:
    """Return the names that belong to a source whatever lies beside them."""
    return [name for row in all_sources() for name in (*row.names, *row.families)]


def source_of(name: str) -> Source | None:
    """Return the row that answers to a name, or None."""
    rows = all_sources()
    exact = [row for row in rows if name in (*row.names, *row.families)]
    in_family = [row for row in rows if name.split("/")[0] in row.families and not local_path(name).exists()]
    accepting = (row for row in rows if row.accepts(name))
    return next(iter([*exact, *in_family]), None) or next(accepting, None)


def resolve(name: str, *, allow_network: bool = False) -> ModelSource:
    """Find the directory of a model. Raises ModelError (or MissingExtraError) saying what was looked for."""
    row = source_of(name)
    if row is not None:
        return row.find(name, allow_network)
    if local_path(name).exists():
        raise ModelError(f"{name} is a file; a model directory with a config.json, or a .gguf file, was expected.")
    raise ModelError(_unknown_message(name))


def local_path(name: str) -> Path:
    """Return a name as the path that it may be, ~ expanded where there is such a home."""
    return Path(os.path.expanduser(name))


def near_paths(name: str) -> str:
    """Return folders with names like this one, for a message: " (near names: …)", or nothing."""
    path = Path(name)
    folders = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, folders, n=2)
    return f" (near names: {', '.join(str(path.parent / n) for n in near)})" if near else ""


def _unknown_message(name: str) -> str:
    known = known_names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    hub = "a hub's owner/name with --allow_network"
    return (
        f"No model {name}: no such directory{near_paths(name)}, and no known name ({', '.join(known)}).{hint} Expected "
        f"one of these, a folder with a config.json, a .gguf file, or {hub}."
    )
