"""Outputs on disk: written completely or not at all, with a manifest written last.

A manifest says from which input and options an output was made and what its files hash to. One that matches the
question asked means "done, skip"; an output without a matching one is replaced only when told.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Any

import orjson

import kat
from kat.digests import read_file, sha256_file, sha256_read
from kat.errors import InputError, MismatchError, OutputError
from kat.folders import files_below

if TYPE_CHECKING:
    pass

MANIFEST = "manifest.json"
_MOVING = ".kat-moving-"
MANIFEST_VERSION = 3
"""2: a stage is named like its command. 3: a manifest of an output holds a hash of itself. None is version 1."""
_OWN_HASH = "manifest_sha256"
_STAGES_OF_VERSION_1 = {
    "pair-weights": "weigh-pairs",
    "export": "export-weights",
    "model": "export",
    "evaluation": "evaluate-rm",
}
_OF_KAT = (b'"kat_version"', b'"manifest_version"', b'"manifest_sha256"', b'"outputs"')
_HOW = ("processes", "allow_network")
"""Options that manifests held once, and that say how an output is made and not what it is."""
_PARTS = {"stage": str, "kat_version": str, "inputs": dict, "options": dict}
"""What every manifest holds, of version 1 too."""
_FACTS: dict[str, tuple[type, ...]] = {
    "outputs": (dict,),
    "inputs_at": (dict,),
    "beside": (dict,),
    "pairs_path": (str, list, NoneType),
    "items_path": (str, list, NoneType),
    "items_sha256": (str, NoneType),
    "left_out": (dict,),
    "inside_text": (list,),
    "unit": (str,),
    "ids": (str,),
    "model": (dict,),
    "recall": (float, int),
    "bad_rows": (int,),
}
"""Of what type further facts are that later stages read, where a manifest has them."""


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

    None if there is none, or none that holds: one without stage, version, inputs or options is damaged or somebody
    else's, and so is one that does not hash to what it says itself. Raises InputError for one that cannot be read.
    """
    path = manifest_path(output)
    try:
        content = read_file(path)
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise
    if not isinstance(value, dict) or not _is_manifest(value):
        return None
    is_hashed = _OWN_HASH in value or ("outputs" in value and value.get("manifest_version") == MANIFEST_VERSION)
    if is_hashed and (value.pop(_OWN_HASH, None) is None or content != manifest_bytes(value)):
        return None
    if "manifest_version" not in value:
        value["stage"] = _STAGES_OF_VERSION_1.get(value["stage"], value["stage"])
    return value


def move_note(output: Path) -> Path:
    """Return where the note stands that says which files are being moved to their places; it goes when they are."""
    path = manifest_path(output)
    return path.with_name(f"{_MOVING}{path.name}")


def readable_manifest(output: Path) -> dict[str, Any] | None:
    """Read the manifest of an output that is read; None if it has none of kat's: it comes from elsewhere.

    Raises MismatchError if it has one that is damaged, or if its command was stopped while files were moved.
    """
    path, kept = manifest_path(output), read_manifest(output)
    if kept is not None:
        return kept
    if path.is_file():
        content = path.read_bytes()
        if not content.strip() or any(mark in content for mark in _OF_KAT):
            raise MismatchError(f"{path} is damaged: it is not what kat wrote. Make {output} again with --overwrite.")
    elif move_note(output).is_file():
        raise MismatchError(
            f"{output} is not complete: what made it was stopped while files got their names. Give its command again."
        )
    return None


def check_vouched(path: Path, by: Path | None = None) -> str:
    """Return the sha256 of a file that is read, if it is what a manifest of kat's says of it.

    The manifest is that of the file itself, or of a folder that it lies in; `by` names another output that it belongs
    to. What no manifest speaks of is taken as it is. The file is watched: see `kat.digests`.

    Raises MismatchError for a file of another content, OSError for one that cannot be read.
    """
    digest = sha256_read(path)
    above = list(path.absolute().parents)[:2]
    folders = [one for one in above if (one / MANIFEST).is_file() or move_note(one).is_file()]
    for output in [by] if by is not None else [path, *folders]:
        kept = readable_manifest(output)
        name = path.absolute().relative_to((output if output.is_dir() else output.parent).absolute()).as_posix()
        outputs = (kept or {}).get("outputs")
        told = outputs.get(name) if isinstance(outputs, dict) else None
        if told not in (None, digest):
            raise MismatchError(
                f"{path} is not what kat {kept['stage'] if kept else ''} wrote: it does not hash to what "
                f"{manifest_path(output)} says. Make it again with --overwrite, or remove the manifest if it was "
                "changed on purpose."
            )
        if told is not None:
            break
    return digest


def _is_manifest(value: Mapping[str, Any]) -> bool:
    """Whether all that a manifest says is of the type that its readers expect."""
    if any(not isinstance(value.get(part), kind) for part, kind in _PARTS.items()):
        return False
    if any(name in value and not isinstance(value[name], kinds) for name, kinds in _FACTS.items()):
        return False
    places = [*value.get("inputs_at", {}).values()]
    if any(not isinstance(place, str | list) for place in places):
        return False
    paths = [value.get("pairs_path"), value.get("items_path"), [*value.get("outputs", ()), *value.get("beside", ())]]
    paths += places
    texts = [one for named in paths for one in (named if isinstance(named, list) else [named or ""])]
    texts += [one for named in ("inputs", "outputs") for one in value.get(named, {}).values() if one is not None]
    return all(isinstance(text, str) and _may_be_path(text) for text in [*texts, *value.get("inside_text", [])])


def _may_be_path(text: str) -> bool:
    """Whether a file system takes a text as a path: asked about any other, it raises."""
    return "\0" not in text and len(text) < 4096 and all(len(part.encode()) <= 255 for part in text.split("/"))


def is_kept(path: Path, folder: Path | None = None) -> bool:
    """Whether a file is there that an output, the `folder` it is in unless told, may lack.

    Raises MismatchError if it is not, and the manifest of the output speaks of it.
    """
    folder = folder or path.parent
    if path.is_file():
        return True
    if path.relative_to(folder).as_posix() in ((readable_manifest(folder) or {}).get("outputs") or {}):
        raise MismatchError(f"{path} is missing, which kat wrote. Make {folder} again with --overwrite.")
    return False


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
        held = next(
            (f"holds {name} and " for name in (*names, MANIFEST) if output.is_dir() and (output / name).exists()), ""
        )
        return f"{held}has no manifest that says what it was made from"
    if difference := first_difference(kept, asked):
        return difference
    bad = first_damage(output, kept, names)
    return f"is damaged ({bad})" if bad else None


def first_difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Say what a manifest tells otherwise than `asked`, as in "was made with k = 10, not 20"; None if nothing."""
    for part in ("stage", "kat_version", "inputs", "options"):
        old, new = kept.get(part), orjson.loads(json_bytes(asked[part]))
        if part == "options" and isinstance(old, dict):
            old = {name: value for name, value in old.items() if name in new or name not in _HOW}
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


def manifest_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of an output's manifest, with a hash of all the rest in it."""
    plain = orjson.loads(json_bytes(dict(value)))
    return json_bytes(plain | {_OWN_HASH: _hash_of(plain)})


def _hash_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def write_folder_manifest(folder: Path, made_from: Mapping[str, Any], **facts: Any) -> None:
    """Write the manifest of the files below a folder into it: the last thing before the folder is complete."""
    files = [path for path in files_below(folder) if path != folder / MANIFEST]
    outputs = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    if odd := [name for name in outputs if _as_utf8(name) != name]:
        raise OutputError(f"The file {odd[0]!r} has a name that is no UTF-8, which a manifest cannot hold. Rename it.")
    (folder / MANIFEST).write_bytes(manifest_bytes({**made_from, "outputs": outputs, **facts}))


def open_hashes(files: Mapping[str, IO[bytes]], *, empty: bool = False) -> dict[str, str]:
    """Return the sha256 of files that are still open for writing, by the names that they will have.

    Those to which nothing was written will not appear and are left out, unless an `empty` one is to.
    """
    for file in files.values():
        file.flush()
    return {name: sha256_file(file.name) for name, file in files.items() if empty or file.tell()}


def json_bytes(value: Any) -> bytes:
    """Return readable JSON; what is no UTF-8 in a text, such as a file's name, is replaced."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    try:
        return orjson.dumps(value, option=option) + b"\n"
    except TypeError as error:
        if "UTF-8" not in str(error):
            raise
        return orjson.dumps(_as_utf8(value), option=option) + b"\n"


def _as_utf8(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {_as_utf8(key): _as_utf8(one) for key, one in value.items()}
    return [_as_utf8(one) for one in value] if isinstance(value, list | tuple) else value


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
