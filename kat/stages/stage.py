"""What every stage does around its work: hash its input, set bad rows aside, skip what is done, say what it did."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kat.artifacts import sha256_file
from kat.data.rows import missing_file, path_text
from kat.errors import InputError, OutputError


def input_hash(path: Path) -> str:
    """The sha256 of an input file. Raises InputError with near names if it is not there."""
    if not path.is_file():
        raise InputError(missing_file(path))
    return sha256_file(path)


def relative(path: Path | None, folder: Path) -> str | None:
    """A path as seen from a folder, so that both can move together."""
    return None if path is None else path_text(Path(os.path.relpath(path.resolve(), folder.resolve())))


def rejected_path(out: Path) -> Path:
    """Where the bad rows of a run go: OUT.rejected.jsonl."""
    return out.with_name(out.name + ".rejected.jsonl")


def check_output(out: Path, *inputs: Path, suffix: str = "") -> None:
    """Raise OutputError for an output that is its own input, or that is named like another format.

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


def with_progress(items, unit: str):
    """The same items, with a bar from the second second on."""
    from tqdm import tqdm

    return tqdm(items, desc="read", unit=f" {unit}", disable=None, delay=1)


def said(stage: str, what: str, out: Path, began: float) -> None:
    """The line of a stage that did its work."""
    print(f"{stage:<9} {what} → {out}   {time.monotonic() - began:.1f} s")


def said_rejected(out: Path, count: int) -> None:
    """The line of rows that were set aside, if any were."""
    if count:
        print(f"rejected  {count:,} bad rows → {rejected_path(out)}")


def skipped(stage: str, out: Path) -> None:
    """The line of a stage that had nothing to do."""
    print(f"{stage:<9} skipped: {out} was made from the same input and options.")
