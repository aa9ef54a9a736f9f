"""What a user names as input → files: a file, a folder of shards, a glob, or several of these, in natural order.

Rows of several files follow each other as the files do; their hash is that of the list of (name, sha256).
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kat.digests import sha256_read
from kat.errors import InputError


@dataclass(frozen=True)
class InMemory:
    """Rows that a caller holds, in the place of files; `name` is what messages call them: "the DataFrame"."""

    name: str

    def rows(self, max_line_bytes: int, needed: Any) -> Iterator[Any]:
        """Yield the rows (`kat.data.row.Row`) as the readers of files do."""
        raise NotImplementedError


Inputs: TypeAlias = str | Path | Sequence[Path] | InMemory

FORMATS = ".jsonl, .json, .csv, .tsv, .parquet, .arrow; text also as .gz, .zst, .bz2, .xz"
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_KINDS = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV"}
_KINDS |= {".parquet": "parquet", ".arrow": "Arrow"}
_NO_DATA = ["readme*", "license*", "*.md", "_*", "dataset_info.json", "dataset_infos.json", "state.json", "*.crc"]
_NO_DATA += ["*.manifest.json", "*.stats.json"]
"""Files that stand beside shards and hold no rows; hidden files are others."""
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
_SPLITS |= {"dev": "validation", "eval": "test"}
_SHOWN = 3


@dataclass(frozen=True)
class HashedInput:
    """An input whose hash was taken, and compared, before a stage begins."""

    named: Inputs
    digest: str


@dataclass(frozen=True)
class ComputedInput:
    """An input that is not hashed as its files are: what computes its hash, and its folder if a user named one."""

    compute: Callable[[], str]
    folder: Path | None = None


@dataclass(frozen=True)
class InputFile:
    """One file of an input. `name` is its path as seen from what was named, `source` where its rows come from."""

    path: Path
    name: str
    source: str


def input_paths(named: Inputs) -> tuple[Path, ...]:
    """Return the paths that were named, one or several; none of rows in memory."""
    if isinstance(named, InMemory):
        return ()
    return (Path(named),) if isinstance(named, str | Path) else tuple(map(Path, named))


def input_text(named: Inputs) -> str:
    """Return an input as a command line would name it; of rows in memory what they are."""
    if isinstance(named, InMemory):
        return named.name
    return " ".join(f"'{path}'" if is_glob(path) else str(path) for path in input_paths(named))


def input_files(named: Inputs) -> list[InputFile]:
    """Return the files of an input in order; none of rows in memory.

    Raises InputError for what is missing, matches nothing, is named twice, or is a folder of several kinds or splits.
    """
    files = [file for path in input_paths(named) for file in _files(path)]
    if not files and not isinstance(named, InMemory):
        raise InputError("No input was named.")
    seen: dict[str, Path] = {}
    for file in files:
        real = os.path.realpath(file.path)
        if real in seen:
            raise InputError(f"{file.path} is named twice; its rows would count double. Name it once.")
        seen[real] = file.path
    return files


def input_hash(named: Inputs) -> str:
    """Return the sha256 of a file; of several, that of their names and hashes. Raises InputError like `input_files`."""
    files = input_files(named)
    hashes = [sha256_read(file.path) for file in files]
    if len(files) == 1:
        return hashes[0]
    listed = [[os.fsencode(file.name).hex(), digest] for file, digest in zip(files, hashes, strict=True)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def is_there(named: Inputs) -> bool:
    """Whether all of an input can be found."""
    try:
        return bool(input_files(named))
    except InputError:
        return False


def would_hold(named: Inputs, path: Path) -> bool:
    """Whether a file written to `path` would be found as a part of the input from then on."""
    target = os.path.realpath(path)
    for one in input_paths(named):
        whole = os.path.realpath(one)
        if os.path.isdir(whole) and os.path.dirname(target) == whole:
            return True
        if is_glob(one) and fnmatch.fnmatch(target, whole) and target.count(os.sep) == whole.count(os.sep):
            return True
    return False


def is_glob(path: Path) -> bool:
    """Whether a path is a pattern; a file of such a name is a file."""
    return glob.has_magic(str(path)) and not path.exists()


def natural_key(text: str) -> tuple[list[tuple[str, int]], str]:
    """Return a key that sorts numbers inside names as numbers: part 2 before part 10."""
    parts = re.split(r"(\d+)", text)
    words, numbers = parts[::2], [int(n) for n in parts[1::2]]
    return list(zip(words, [*numbers, -1], strict=True)), text


def missing_file(path: Path) -> str:
    """Return what to say of an input that is not there: near names in its folder, if any."""
    import difflib

    if path.exists() and not path.is_dir():
        return f"{path} is no regular file; kat reads an input more than once. Save it to a file first."
    if path.is_dir():
        return f"{path} is a folder; a file was expected ({FORMATS})."
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f" Did you mean {' or '.join(str(path.parent / n) for n in near)}?" if near else ""
    return f"{path} does not exist.{hint}"


def data_suffix(path: Path) -> str:
    """Return the suffix that says how rows are written, under that of a compression: `.jsonl` of x.jsonl.gz."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def _files(path: Path) -> list[InputFile]:
    if path.is_file():
        return [InputFile(path, path.name, path.name)]
    if path.is_dir():
        source = path.resolve().name
        return [InputFile(file, file.name, source) for file in _folder(path)]
    if not is_glob(path):
        raise InputError(missing_file(path))
    _check_listed(path)
    files = [Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)]
    if not files:
        raise InputError(f"{path} matches no file.")
    base = path
    while glob.has_magic(str(base)):
        base = base.parent
    ordered = sorted(files, key=lambda file: natural_key(str(file)))
    return [InputFile(file, file.relative_to(base).as_posix(), base.resolve().name) for file in ordered]


def _check_listed(pattern: Path) -> None:
    """Raise InputError for a folder that a pattern looks into and cannot list, which `glob` passes over."""
    for above, name in zip(pattern.parents, [pattern.name, *(p.name for p in pattern.parents)], strict=False):
        for folder in glob.glob(str(above), recursive=True) if glob.has_magic(name) else ():
            try:
                if os.path.isdir(folder):
                    os.scandir(folder).close()
            except OSError as error:
                raise InputError(f"{folder}, where {pattern} looks, cannot be listed: {error.strerror}.") from error


def _folder(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in folder.iterdir() if (p / "state.json").is_file())
        raise InputError(
            f"{folder} is a saved data set of several splits: {', '.join(splits) or 'none'}. "
            f"Name one: {folder / ('train' if 'train' in splits else (splits or ['SPLIT'])[0])}"
        )
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _saved_data_set(folder)
    files = sorted(
        (p for p in folder.iterdir() if p.is_file() and _may_hold_rows(p)), key=lambda p: natural_key(p.name)
    )
    _check_folder(folder, files)
    return files


def _may_hold_rows(path: Path) -> bool:
    name = path.name.lower()
    return not name.startswith(".") and not any(fnmatch.fnmatch(name, pattern) for pattern in _NO_DATA)


def _check_folder(folder: Path, files: list[Path]) -> None:
    """Raise InputError unless the files of a folder are shards of one thing."""
    below = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    deeper = sorted(p.name for p in below if any(_KINDS.get(data_suffix(f)) for f in p.iterdir() if f.is_file()))
    if not files and not deeper:
        raise InputError(f"{folder} is a folder without a file of rows ({FORMATS}).")
    if deeper:
        raise InputError(f"{folder} has folders with files of rows: {_some(deeper)}. Name one: {folder / deeper[0]}")
    if other := [p.name for p in files if data_suffix(p) not in _KINDS]:
        raise InputError(
            f"{folder} holds {_some(other)}, not known to hold rows. Name what to read: '{_pattern(folder, files)}'."
        )
    kinds = {_KINDS[data_suffix(p)]: p for p in reversed(files)}
    if len(kinds) > 1:
        listed = ", ".join(f"{p.name} is {kind}" for kind, p in sorted(kinds.items()))
        raise InputError(f"{folder} mixes files: {listed}. Name those of one kind: '{_pattern(folder, files)}'.")
    splits = {split: p for p in files if (split := _split_of(p))}
    if len(splits) > 1:
        first = re.split(r"[-_.]", splits.get("train", files[0]).name)[0]
        raise InputError(
            f"{folder} holds several splits: {', '.join(sorted(splits))}. Name the files of one: '{folder / first}*'."
        )


def _split_of(path: Path) -> str | None:
    return _SPLITS.get(re.split(r"[-_.]", path.name.lower())[0])


def _pattern(folder: Path, files: Iterable[Path]) -> Path:
    known = next((p for p in files if data_suffix(p) in _KINDS), None)
    return folder / (
        "*" + ("".join(known.suffixes[-2:]) if known.suffix in COMPRESSED else known.suffix) if known else "*.jsonl"
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _saved_data_set(folder: Path) -> list[Path]:
    """The files of `datasets.save_to_disk`, as its state names them."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder / 'state.json'} is not that of a saved data set: {error!r}") from error
    if state.get("_indices_data_files"):
        raise InputError(
            f"{folder} holds a selection of its rows by index. Save it plainly: "
            f"load_from_disk({str(folder)!r}).flatten_indices().save_to_disk(…)"
        )
    for file in files:
        if not file.is_file():
            raise InputError(f"{folder} lacks {file.name}, which its state.json names. Copy the folder again.")
    return files
