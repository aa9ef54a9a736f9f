"""The work of an embedding run on disk, so that a run that is stopped, however it is stopped, goes on where it was.

Beside the output stands a folder OUT.unfinished:

    manifest.json    what the vectors are made from: the output's own manifest, device and precision
    journal          a line for each pack that is computed and each window that is whole, with a checksum
    embeddings.npy   [N, D] float32, rows of whole windows
    lengths.npy      [N, 2] int32: tokens of the text, tokens lost
    pooled-W.npy     [pieces, D] float32 of the window at work

Arrays are mapped, so that the vectors are the system's to keep or to write. What a line of the journal speaks of is
believed only if it has that checksum: the journal may run ahead of the arrays when a machine loses its power.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kat import artifacts
from kat.errors import OutputError

_WHOLE = "whole"


def unfinished_path(out: Path) -> Path:
    """Where the work on an output is kept until it is done: OUT.unfinished."""
    return out.with_name(out.name + ".unfinished")


class Unfinished:
    """A folder of unfinished work; a context manager that keeps it from other processes.

    `wanted` is what the vectors are made from, `shape` (N, D) theirs. Raises OutputError where another process is at
    work, or where the folder holds work on something else and `overwrite` is off.
    """

    def __init__(self, folder: Path, wanted: Mapping[str, Any], shape: tuple[int, int], *, overwrite: bool = False):
        self.folder = folder
        with artifacts.as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = (folder / "journal").open("ab")
            try:
                _lock(self._journal.fileno(), folder)
                self._begin(wanted, overwrite)
                self._packs, self._whole = _read_journal(folder / "journal")
                self._write("\n")  # ends a line that was cut off
                self.vectors = self._array("embeddings.npy", shape, np.float32)
                self.lengths = self._array("lengths.npy", (shape[0], 2), np.int32)
            except BaseException:
                self._journal.close()
                raise
        self._pooled: np.ndarray | None = None

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()  # and with it the lock

    @property
    def resumed(self) -> bool:
        """Whether an earlier run left something."""
        return bool(self._packs or self._whole)

    def is_whole(self, window: int, rows: slice) -> bool:
        """Whether an earlier run finished a window, its rows unharmed."""
        return self._whole.get(window) == self._checksum(self.vectors[rows], self.lengths[rows])

    def begin(self, window: int, plan: Sequence[np.ndarray], pieces: int) -> tuple[np.ndarray, list[int]]:
        """Where a window's pooled vectors [pieces, D] go, and the numbers of the packs that are still to compute."""
        self._pooled = self._array(f"pooled-{window}.npy", (pieces, self.vectors.shape[1]), np.float32)
        there = self._packs.get(window, {})
        return self._pooled, [n for n, p in enumerate(plan) if there.get(n) != self._checksum(self._pooled[p])]

    def note(self, window: int, number: int, rows: np.ndarray) -> None:
        """A pack's vectors are in place."""
        self._write(f"{window} {number} {self._checksum(self._pooled[rows]):08x}\n")

    def finish(self, window: int, rows: slice) -> None:
        """All rows of a window are in place; its pooled vectors are needed no more."""
        self._write(f"{window} {_WHOLE} {self._checksum(self.vectors[rows], self.lengths[rows]):08x}\n")
        self._pooled = None
        (self.folder / f"pooled-{window}.npy").unlink()

    def _begin(self, wanted: Mapping[str, Any], overwrite: bool) -> None:
        found = artifacts.read_manifest(self.folder)
        difference = None if found is None else artifacts.first_difference(found, wanted)
        if difference and not overwrite:
            raise OutputError(
                f"{self.folder} holds the unfinished work of a run that {difference}. Give the same again to finish "
                "it, or add --overwrite to begin anew."
            )
        if found is None and not overwrite and any(_arrays(self.folder)):
            raise OutputError(f"{self.folder} holds arrays that kat did not begin. Move them, or add --overwrite.")
        if found is None or difference:
            for path in _arrays(self.folder):
                path.unlink()
            os.truncate(self._journal.fileno(), 0)
            with artifacts.whole_file(self.folder / artifacts.MANIFEST) as file:
                file.write(artifacts.json_bytes(wanted))

    def _array(self, name: str, shape: tuple[int, int], kind: type) -> np.ndarray:
        """A mapped array, the one that is there if it fits."""
        path, found = self.folder / name, None
        with contextlib.suppress(OSError, ValueError):
            found = np.lib.format.open_memmap(path, "r+")
        with artifacts.as_output_error(self.folder):
            if found is None or found.shape != shape or found.dtype != kind:
                found = np.lib.format.open_memmap(path, "w+", kind, shape)
            if hasattr(os, "posix_fallocate"):  # a disk that is full shall say so now, not kill when a page is written
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return found

    def _checksum(self, *arrays: np.ndarray) -> int:
        found = 0
        for array in arrays:
            found = zlib.crc32(np.ascontiguousarray(array), found)
        return found

    def _write(self, line: str) -> None:
        with artifacts.as_output_error(self.folder):
            self._journal.write(line.encode())
            self._journal.flush()


def begun_as(wanted: Mapping[str, Any], computed: str) -> dict[str, Any]:
    """The manifest of work on an output: the output's own, and how it is computed, which `auto` leaves open."""
    return {**wanted, "options": {**wanted["options"], "computed": computed}}


def discard(out: Path, wanted: Mapping[str, Any]) -> None:
    """Remove the work on an output that is whole. Work on something else stays."""
    folder = unfinished_path(out)
    found = (artifacts.read_manifest(folder) if folder.is_dir() else None) or {}
    options = found.get("options")
    if not isinstance(options, dict) or "computed" not in options:
        return  # not the work of this module, whatever its name
    if artifacts.first_difference(found, begun_as(wanted, options["computed"])) is None:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder of work, but nothing of anybody else's in it."""
    with contextlib.suppress(OSError):
        for path in (*_arrays(folder), folder / "journal", folder / artifacts.MANIFEST):
            path.unlink(missing_ok=True)
        os.rmdir(os.path.realpath(folder))


def _arrays(folder: Path) -> Iterator[Path]:
    for pattern in ("embeddings.npy", "lengths.npy", "pooled-*.npy"):
        yield from folder.glob(pattern)


def _read_journal(path: Path) -> tuple[dict[int, dict[int, int]], dict[int, int]]:
    """Checksums of the packs of each window, and of whole windows. A line that was cut off says nothing."""
    packs: dict[int, dict[int, int]] = {}
    whole: dict[int, int] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            window, what, checksum = line.decode("ascii").removesuffix("\n").split(" ")
            if not line.endswith(b"\n") or len(checksum) != 8:
                continue
            if what == _WHOLE:
                whole[int(window)] = int(checksum, 16)
            else:
                packs.setdefault(int(window), {})[int(what)] = int(checksum, 16)
    return packs, whole


def _lock(file: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a Unix: two runs at once are the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{folder} is being written by another process. Wait, or name another output.") from None
    except OSError:  # a file system without locks
        return
