"""Outputs on disk: written completely or not at all, with a manifest written last.

A manifest says from which input and options an output was made and what its files hash to. One that matches the
question asked means "done, skip"; an output without a matching one is replaced only when told.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

import kat
from kat.errors import MismatchError, OutputError

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"
_TEMPORARY = ".kat-tmp-"
MANIFEST_VERSION = 2
"""2: a stage is named like its command. Manifests without a version are of version 1."""
_STAGES_OF_VERSION_1 = {
    "pair-weights": "weigh-pairs",
    "export": "export-weights",
    "model": "export",
    "evaluation": "evaluate-rm",
}
_PARTS = {"stage": str, "kat_version": str, "inputs": dict, "options": dict}
"""What every manifest holds, of version 1 too."""
_HOST = re.sub(r"\W", "_", platform.node()) or "here"


def sha256_file(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(stage: str, inputs: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what an output is made from. `inputs` maps names to sha256, `options` names to values."""
    return {
        "stage": stage,
        "manifest_version": MANIFEST_VERSION,
        "kat_version": kat.__version__,
        "inputs": dict(inputs),
        "options": {name: options[name] for name in sorted(options)},
    }


def manifest_path(output: Path) -> Path:
    """Return a folder's `manifest.json`, or a single file's `NAME.manifest.json` beside it."""
    return output / MANIFEST if output.is_dir() else output.with_name(output.name + ".manifest.json")


def read_manifest(output: Path) -> dict[str, Any] | None:
    """Read the manifest of an output. Stages of older versions get their name of today.

    None if it has none that can be read: one without stage, version, inputs or options is damaged or somebody else's.
    """
    try:
        value = orjson.loads(manifest_path(output).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(value, dict) or any(not isinstance(value.get(part), kind) for part, kind in _PARTS.items()):
        return None
    if "manifest_version" not in value:
        value["stage"] = _STAGES_OF_VERSION_1.get(value["stage"], value["stage"])
    return value


def is_done(output: Path, asked: Mapping[str, Any], names: Iterable[str] = (), *, overwrite: bool) -> bool:
    """Say whether `output` already holds what `asked` (from `manifest`) would make, its files unharmed.

    A folder counts as an output if it holds a manifest or one of the files `names`; other files in it are left alone.
    Raises OutputError if something else is there and `overwrite` is off, naming the first difference.
    """
    if output.exists() and not (output.is_dir() if names else output.is_file()):
        kind = "folder" if names else "file"
        raise OutputError(f"{output} is not a {kind} that can be written. Name another output.")
    marks = [output / name for name in (MANIFEST, *names)] if names else [output]
    if not any(mark.exists() for mark in marks):
        return False
    difference = _difference(output, read_manifest(output), asked, names or [output.name])
    if difference is None:
        return True
    if overwrite:
        return False
    raise OutputError(f"{output} exists and {difference}. Add --overwrite to replace it, or name another output.")


def _difference(
    output: Path, kept: Mapping[str, Any] | None, asked: Mapping[str, Any], names: Iterable[str]
) -> str | None:
    if kept is None:
        return "has no manifest that says what it was made from"
    if difference := first_difference(kept, asked):
        return difference
    bad = first_damage(output, kept, names)
    return f"is damaged ({bad})" if bad else None


def first_difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Say what a manifest tells otherwise than `asked`, as in "was made with k = 10, not 20"; None if nothing."""
    for part in ("stage", "kat_version", "inputs", "options"):
        old, new = kept.get(part), orjson.loads(orjson.dumps(asked[part]))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            key = next(k for k in [*new, *old] if old.get(k, ...) != new.get(k, ...))
            if part == "inputs":
                return f"was made from another {key}"
            return f"was made with {key} = {old.get(key)!r}, not {new.get(key)!r}"
        return f"was made by {part.replace('_', ' ')} {old}, not {new}"
    return None


def first_damage(output: Path, kept: Mapping[str, Any], names: Iterable[str] = ()) -> str | None:
    """Say which file of a manifest is the first that is missing or hashes to something else; None if none is.

    A manifest that does not speak of all of `names` is damaged itself.
    """
    folder = output if output.is_dir() else output.parent
    outputs = kept.get("outputs")
    if not isinstance(outputs, dict) or not outputs or not set(names) <= set(outputs):
        return "its manifest does not list its files"
    for name, digest in outputs.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_file(path) != digest:
            return f"{name} does not hash to what its manifest says"
    return None


def write_folder_manifest(folder: Path, made_from: Mapping[str, Any], **facts: Any) -> None:
    """Write the manifest of the files below a folder into it: the last thing before the folder is complete."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    outputs = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    (folder / MANIFEST).write_bytes(json_bytes({**made_from, "outputs": outputs, **facts}))


def file_manifest(made_from: Mapping[str, Any], files: Mapping[str, IO[bytes]], **facts: Any) -> bytes:
    """Return the manifest of open files of `atomic_files`, by the names they will have: the bytes to write last."""
    outputs = {}
    for name, file in files.items():
        file.flush()
        outputs[name] = sha256_file(file.name)
    return json_bytes({**made_from, "outputs": outputs, **facts})


@contextlib.contextmanager
def atomic_files(*paths: Path) -> Iterator[list[IO[bytes]]]:
    """Open binary files that appear under their names, in the order given, when the block ends well; else none does.

    One to which nothing was written does not appear, and an older file of its name goes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_output_error(paths[-1]))
        targets = [Path(os.path.realpath(path)) for path in paths]  # a link is followed, not replaced
        temporaries = [t.with_name(_temporary_name() + t.name) for t in targets]
        files: list[IO[bytes]] = []
        for target, temporary in zip(targets, temporaries, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(target.parent)
            stack.callback(temporary.unlink, missing_ok=True)
            files.append(stack.enter_context(temporary.open("wb")))
        yield files
        sizes = [_close(file) for file in files]
        for target, temporary, size in zip(targets, temporaries, sizes, strict=True):
            if size:
                temporary.replace(target)
            else:
                target.unlink(missing_ok=True)


def _close(file: IO[bytes]) -> int:
    """Bring a file to the disk and return its size."""
    file.flush()
    os.fsync(file.fileno())
    size = file.tell()
    file.close()
    return size


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open one binary file that appears under its name when the block ends well."""
    with atomic_files(path) as (file,):
        yield file


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Make a scratch folder whose files move into `folder` when the block ends well; the old manifest goes first."""
    scratch = folder / _temporary_name()
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        try:
            scratch.mkdir()
            yield scratch
            written = [p for p in scratch.rglob("*") if p.is_file()]
            for path in written:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            names = {p.relative_to(scratch).as_posix() for p in written}
            outdated = set((read_manifest(folder) or {}).get("outputs") or {}) - names
            (folder / MANIFEST).unlink(missing_ok=True)
            for path in sorted(scratch.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
                if path.is_dir():
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                path.replace(folder / path.name)
            for name in outdated:
                if ".." not in Path(name).parts and not Path(name).is_absolute():
                    (folder / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def json_bytes(value: Any) -> bytes:
    """Return readable JSON."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def json_list(values: Iterable[Any]) -> Iterator[bytes]:
    """Give the bytes of `orjson.dumps(list(values))`, a value at a time."""
    before = b"["
    for value in values:
        yield before + orjson.dumps(value)
        before = b","
    yield b"]" if before == b"," else b"[]"


def link_or_copy(source: Path, target: Path) -> None:
    """Give the same bytes a second name; kat replaces files and never changes them in place."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def load_array(path: Path) -> np.ndarray:
    """Map an .npy array into memory, never unpickled. Raises MismatchError if it is no such file."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        # NumPy's own words advise to unpickle what is there, which runs code.
        reason = "it holds Python objects, or is no .npy file" if "pickle" in str(error) else error
        raise MismatchError(f"{path} is no array that kat can read: {reason}.") from error


def check_ids(ids: Sequence[str], n: int, where: str) -> None:
    """Raise MismatchError unless there are n ids and no two alike."""
    if len(ids) != n:
        raise MismatchError(f"{where}: {len(ids):,} ids for {n:,} rows.")
    if len(set(ids)) < n:
        first: dict[str, int] = {}
        row, repeated = next((r, i) for r, i in enumerate(ids) if first.setdefault(i, r) != r)
        raise MismatchError(f"{where} repeats the id {repeated} in row {row}.")


def compare_ids(ids: list[str], others: list[str], name: str, other_name: str) -> None:
    """Raise MismatchError, naming the first difference, unless both lists are the same in the same order."""
    for row, (own, other) in enumerate(zip(ids, others, strict=False)):
        if own != other:
            raise MismatchError(
                f"Row {row} is {own} in {name} and {other} in {other_name}; was it made from this file?"
            )
    if len(ids) != len(others):
        raise MismatchError(f"{name} has {len(ids):,} ids and {other_name} {len(others):,}.")


def check_array(path: Path, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """Raise MismatchError unless an array is float32 of a shape, in which None stands for any length."""
    fits = array.ndim == len(shape) and all(s in (None, t) for s, t in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != "float32":
        expected = " × ".join("any" if s is None else f"{s:,}" for s in shape)
        raise MismatchError(f"{path} is {array.dtype} of shape {array.shape}; expected float32 of {expected}.")


@contextlib.contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError about `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        where = error.filename or path
        raise OutputError(f"{path} cannot be written: {error.strerror or error} ({where}).") from error


def _temporary_name() -> str:
    """Return a name that says which machine and process it belongs to, and is never the same twice."""
    return f"{_TEMPORARY}{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}-"


def _sweep(folder: Path) -> None:
    """Remove what killed runs of this machine left behind: temporaries whose process is gone."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        host, pid, *_ = [*path.name.removeprefix(_TEMPORARY).split("-"), ""]
        if host != _HOST or not pid.isdigit() or _alive(int(pid)):
            continue
        with contextlib.suppress(OSError):  # somebody else's; it is in nobody's way
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
