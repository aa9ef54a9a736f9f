"""Where an output may stand: never in the place of what is read, nor inside of what is read as one thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kat.artifacts import manifest_path, read_manifest
from kat.errors import OutputError
from kat.inputs import Inputs, input_files, input_paths


def check_place(
    out: Path,
    others: Mapping[str, Path],
    guarded: Sequence[Path],
    *,
    apart: Iterable[Path],
    is_folder: bool,
    suffix: str,
) -> None:
    """Raise OutputError for an output, or what stands beside it, that is or would disturb what is read."""
    _check_apart(out, apart, guarded if is_folder else ())
    if not is_folder:
        for one, its_suffix in ((out, suffix), (manifest_path(out), "")):
            check_output(one, guarded, its_suffix)
    for other in others.values():
        check_output(other, guarded, other.suffix)  # named by the stage, in the format that it writes


def check_output(out: Path, inputs: Sequence[Path], suffix: str = "") -> None:
    """Raise OutputError for an output that is one of the inputs, or that is named like another format.

    `suffix` is that of the output's format, if it needs one.
    """
    if not out.name:
        raise OutputError(f"{out} is not a file that can be written. Name another output.")
    for source in inputs:
        if source.exists() and out.exists() and out.samefile(source):
            raise OutputError(f"{out} is the input, which is never overwritten. Name another output.")
    if suffix and out.suffix != suffix:
        raise OutputError(f"{out} is written as {suffix[1:]}; give it a name that ends in {suffix}.")
    if out.suffix in (".gz", ".zst", ".parquet") and out.suffix != suffix:
        raise OutputError(f"{out} would be written uncompressed; name it without {out.suffix}.")


def guarded_files(named: Inputs) -> list[Path]:
    """The files of an input, no output may be one of; one file need not be there yet, which its hash will say."""
    paths = input_paths(named)
    return (
        list(paths)
        if all(not path.exists() or path.is_file() for path in paths)
        else [file.path for file in input_files(named)]
    )


def would_disturb(named: Inputs, out: Path) -> bool:
    """Whether a folder written to `out` would stand among the shards of a folder that is read."""
    return any(path.is_dir() and path.resolve() in out.resolve().parents for path in input_paths(named))


def _check_apart(out: Path, apart: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise OutputError for a folder that is one which is read, or that holds or lies inside one that is read as one
    thing."""
    place = out.resolve()
    for folder in {path.parent for path in inputs}:
        if place == folder.resolve() and read_manifest(folder) is not None:
            raise OutputError(f"{out} is the input, which is never overwritten. Name another output.")
    for folder in apart:
        other = folder.resolve()
        if other.is_dir() and (place == other or place in other.parents or other in place.parents):
            if place == other:
                raise OutputError(f"{out} is the input, which is never overwritten. Name another output.")
            relation = "holds" if place in other.parents else "lies inside"
            raise OutputError(f"{out} {relation} {folder}, which is read. Name another output.")
