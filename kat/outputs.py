"""Outputs that appear complete or not at all, and never in the place of somebody else's files.

What is written goes to temporaries first. Only when all of it is there are its names looked at: one that is taken by
what no manifest of kat's names is refused, before anything moves. Then a note of the move is written, the old manifest
goes, the files get their names, and the new manifest gets its own, last. A process that is killed on the way leaves the
note: what it names is kat's own, and the same command ends the move by making the output again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from kat.artifacts import json_bytes, manifest_path, move_note, read_manifest
from kat.atomic import TEMPORARY, as_output_error, atomic_file, close, new_folder, sweep, temporary_file, temporary_name
from kat.errors import OutputError
from kat.folders import files_below
from kat.locks import lock_path, locked

_BESIDE_IN_MANIFEST = 3
"""The version of manifests from which on they name what stands beside an output."""


@dataclass(frozen=True)
class Own:
    """Names that are kat's: `files` in an output's folder, `beside` in the folder that the output itself is in.

    Of an output that is a file these are one folder.
    """

    files: set[str] = field(default_factory=set)
    beside: set[str] = field(default_factory=set)


@contextlib.contextmanager
def output_files(
    out: Path, others: Mapping[str, Path], inputs: Iterable[Path] = (), *, overwrite: bool
) -> Iterator[dict[str, IO[bytes]]]:
    """Open an output, "out", its manifest, "manifest", and what is written beside it, by their names; all appear when
    the block ends well, the manifest last.

    One of the `others` to which nothing was written does not appear; an older one goes if it is kat's.
    Raises OutputError for a name that is taken by what is not kat's, unless `overwrite`, or by one of the `inputs`.
    """
    paths = {**others, "out": out, "manifest": manifest_path(out)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_output_error(out))
        opened = {name: stack.enter_context(temporary_file(path)) for name, path in paths.items()}
        yield {name: one.file for name, one in opened.items()}
        sizes = {name: close(one.file) for name, one in opened.items()}
        written = [name for name in opened if sizes[name] or name in ("out", "manifest")]
        moves = {paths[name].name: (opened[name].temporary, opened[name].target) for name in written}
        place = Place(out, own_names(out, [path.name for path in others.values()]))
        place.fill(moves, inputs=inputs, overwrite=overwrite)


@contextlib.contextmanager
def output_folder(
    folder: Path, others: Mapping[str, Path] | None = None, inputs: Iterable[Path] = (), *, overwrite: bool = True
) -> Iterator[tuple[Path, dict[str, IO[bytes]]]]:
    """Make a scratch folder whose files get their places in `folder` when the block ends well, the manifest last, and
    open the `others`, which stand beside the folder, by name.

    What kat wrote there before and does not write now goes; what is somebody else's stays. Raises OutputError for a
    name that is taken by what is not kat's, unless `overwrite`, or by one of the `inputs`.
    """
    scratch, others = folder / temporary_name(), others or {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_output_error(folder))
        stack.enter_context(new_folder(folder))
        sweep(folder)
        opened = {name: stack.enter_context(temporary_file(path)) for name, path in others.items()}
        try:
            scratch.mkdir()
            yield scratch, {name: one.file for name, one in opened.items()}
            written = files_below(scratch)
            for path in written:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            names = {path: path.relative_to(scratch).as_posix() for path in written}
            moves = {name: (path, folder / name) for path, name in names.items()}
            sizes = {name: close(one.file) for name, one in opened.items()}
            beside = {others[n].name: (one.temporary, one.target) for n, one in opened.items() if sizes[n]}
            place = Place(folder, own_names(folder, [path.name for path in others.values()]))
            place.fill(moves, beside, inputs=inputs, overwrite=overwrite)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def own_names(output: Path, beside: Iterable[str] = ()) -> Own:
    """Return the names of what kat wrote as an output, as its manifest says, or the note of a move that was stopped.

    `beside` are names of what is written beside it: manifests of older versions do not tell, and it is kat's where
    the output is.
    """
    kept, note = read_manifest(output), _read_note(output)
    name, own = manifest_path(output).name, Own()
    if kept is not None and kept.get("outputs"):
        own.files.update({name, *_names_in(kept["outputs"])})
        is_told = kept.get("manifest_version", 1) >= _BESIDE_IN_MANIFEST
        own.beside.update(_names_in(kept.get("beside")) if is_told else beside)
    if note is not None:
        # What was somebody else's, and to be replaced as --overwrite said, may still be there.
        theirs = _names_in(note.get("replaced"))
        own.files.update({name, *_names_in(note.get("files"))} - theirs)
        own.beside.update(_names_in(note.get("beside")) - theirs)
    return own if output.is_dir() else Own(own.files | own.beside, own.files | own.beside)


def tidy(output: Path) -> None:
    """Remove what a killed run left beside an output that is complete: its lock, and temporaries."""
    left = [lock_path(output), *output.parent.glob(f"{TEMPORARY}*"), *output.glob(f"{TEMPORARY}*")]
    if any(map(os.path.lexists, left)):
        with contextlib.suppress(OSError), locked(output):  # a folder that cannot be written is left as it is
            sweep(output.parent)
            sweep(output)


def is_midway(output: Path) -> bool:
    """Whether the move of an output was stopped midway: what is there is neither the old one nor the new one.

    The old manifest goes before anything else moves, and the new one comes last: with a manifest a move was not begun
    or is complete, and only its note is left, which goes.
    """
    if _read_note(output) is None:
        return False
    if manifest_path(output).is_file():
        with as_output_error(output):
            move_note(output).unlink(missing_ok=True)
        return False
    return True


def check_strangers(folder: Path, names: Iterable[str], own: set[str], *, overwrite: bool) -> None:
    """Raise OutputError for a name in a folder that is taken by what is not kat's `own`, or by a folder."""
    for name in sorted(names):
        path = folder / name
        if path.is_dir():
            raise OutputError(f"{path} is a folder, where a file is to be written. Move it, or name another output.")
        for parent in list(Path(name).parents)[:-1]:
            if os.path.lexists(folder / parent) and not (folder / parent).is_dir():
                raise OutputError(
                    f"{folder / parent} is a file, where a folder is to be. Move it, or name another output."
                )
        if name not in own and os.path.lexists(path) and not overwrite:
            raise OutputError(
                f"{path} is there, and nothing says that kat wrote it. Name another output, or add --overwrite to "
                "replace it."
            )


def check_alone(folder: Path) -> None:
    """Raise OutputError for a folder that holds files which nothing says kat wrote."""
    own = {*own_names(folder).files, move_note(folder).name}
    for path in files_below(folder) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if name not in own and not name.startswith(TEMPORARY):
            raise OutputError(
                f"{folder} holds {name}, and nothing says that kat wrote it. Name a folder of its own, or add "
                "--overwrite to write beside it."
            )


def check_inputs(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> None:
    """Raise OutputError for a name in a folder that is one of the inputs, which would be replaced or removed.

    By place, not by file: a folder may hold a hard link to what it was made from, and replaces the link alone.
    """
    places = {os.path.realpath(source) for source in inputs}
    for name in sorted(names):
        if os.path.realpath(folder / name) in places:
            raise OutputError(f"{folder / name} is the input, which is never overwritten. Name another output.")


Moves = Mapping[str, tuple[Path, Path]]
"""Files by name: where they were written, and where they belong."""


@dataclass(frozen=True)
class Place:
    """Where the files of an `output` go, and the names there that are kat's `own`."""

    output: Path
    own: Own

    def fill(self, moves: Moves, beside: Moves | None = None, *, inputs: Iterable[Path] = (), overwrite: bool) -> None:
        """Move files to where they belong, what stands `beside` first and the manifest last.

        Raises what `check_strangers` and `check_inputs` raise, before anything has moved.
        """
        manifest, beside, inputs = manifest_path(self.output), beside or {}, list(inputs)
        check_strangers(manifest.parent, moves, self.own.files, overwrite=overwrite)
        check_strangers(self.output.parent, beside, self.own.beside, overwrite=overwrite)
        outdated = self.own.files - {*moves, *beside, manifest.name}
        outdated_beside = self.own.beside - {*moves, *beside, manifest.name}
        check_inputs(manifest.parent, {*moves, *outdated}, inputs)
        check_inputs(self.output.parent, {*beside, *outdated_beside}, inputs)
        files = sorted({*moves, *outdated} - {manifest.name})
        note = {"files": files, "beside": sorted({*beside, *outdated_beside})}
        replaced = {name for name in moves if name not in self.own.files and os.path.lexists(manifest.parent / name)}
        replaced |= {n for n in beside if n not in self.own.beside and os.path.lexists(self.output.parent / n)}
        with atomic_file(move_note(self.output)) as file:
            file.write(json_bytes({**note, "replaced": sorted(replaced)}))
        manifest.unlink(missing_ok=True)
        _move(beside.values())
        _move(move for name, move in moves.items() if name != manifest.name)
        _remove(self.output.parent, outdated_beside)
        _remove(manifest.parent, outdated)
        _sync(manifest.parent)  # no manifest on the disk before what it speaks of
        if manifest.name in moves:
            _move([moves[manifest.name]])
        move_note(self.output).unlink(missing_ok=True)
        _sync(manifest.parent)


def _move(moves: Iterable[tuple[Path, Path]]) -> None:
    for source, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files of an earlier output, and the folders that they leave empty."""
    for name in sorted(names):
        (folder / name).unlink(missing_ok=True)
        for parent in list(Path(name).parents)[:-1]:
            with contextlib.suppress(OSError):  # not empty: others' files are in it
                (folder / parent).rmdir()


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where folders can be."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that bring files alone to the disk
            raise
    finally:
        os.close(opened)


def _names_in(outputs: Any) -> set[str]:
    """Return the names of a manifest's files; one that leads elsewhere is none that kat wrote."""
    names = outputs if isinstance(outputs, dict | list) else []
    return {n for n in names if isinstance(n, str) and n and ".." not in Path(n).parts and not Path(n).is_absolute()}


def _read_note(output: Path) -> dict[str, Any] | None:
    try:
        note = orjson.loads(move_note(output).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return note if isinstance(note, dict) else None
