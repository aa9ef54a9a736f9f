"""Finished parts of a long piece of work, written down as they are done, so that a run that was stopped goes on there.

A journal is a text file that only grows: a line "GROUP PART CHECKSUM" for each part that is done. The work itself lies
in files beside it. A line is believed only if what it speaks of still has that checksum, for the journal may run ahead
of the other files when a machine loses its power. It is locked while it is open, so that two runs never share it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import MANIFEST, first_difference, read_manifest
from kat.atomic import atomic_file, sweep
from kat.digests import sha256_file
from kat.errors import OutputError
from kat.locks import lock_file

COMPUTED = "computed"
"""The option in the manifest of work that says how it is computed, which an output's own leaves open."""


def computing(asked: Mapping[str, Any], computed: str) -> dict[str, Any]:
    """Return the manifest of work on an output whose own is `asked`: with how it is computed, which `auto` leaves
    open. What was computed otherwise is not gone on from."""
    return {**asked, "options": {**asked["options"], COMPUTED: computed}}


class Journal:
    """The open journal of a piece of work, locked until `close`.

    Raises OutputError if another process holds it, unless `waiting` says that it is waited for, OSError if it cannot be
    written.
    """

    def __init__(self, path: Path, *, waiting: str | None = None):
        self.path = path
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is no regular file. Remove {path.parent} to start over.")
        self._file = path.open("ab")
        try:
            lock_file(self._file.fileno(), path.parent, waiting=waiting)
        except BaseException:
            self._file.close()
            raise

    def clear(self) -> None:
        """Forget everything: the work starts over."""
        os.truncate(self._file.fileno(), 0)

    def read(self) -> Mapping[tuple[str, str], int]:
        """Return the checksum of each part, by (group, part), and make the journal ready for more lines.

        Of two lines on one part the later one counts. A line that was cut off says nothing.
        """
        checksums = read_journal(self.path)
        self._write("\n")  # ends a line that was cut off, so that it does not spoil the next one
        return checksums

    def add(self, group: object, part: object, checksum: int) -> None:
        """Write down that a part is done. `group` and `part` are words or numbers without spaces."""
        self._write(f"{group} {part} {checksum:08x}\n")

    def close(self) -> None:
        """Close the file, and with it the lock."""
        self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(line.encode())
        self._file.flush()  # out of this process, so that a kill loses nothing


def read_journal(path: Path) -> dict[tuple[str, str], int]:
    """Return the checksum of each part that a journal speaks of, by (group, part)."""
    checksums: dict[tuple[str, str], int] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError):  # no ASCII, other than three words, no hexadecimal number
            group, part, checksum = line.decode("ascii").removesuffix("\n").split(" ")
            if line.endswith(b"\n") and len(checksum) == 8:
                checksums[group, part] = int(checksum, 16)
    return checksums


def kept_array(path: Path, shape: tuple[int | None, ...], kind: type | np.dtype, mode: str = "r+") -> np.ndarray | None:
    """Return the array of an earlier run, mapped, if it has this type and shape, in which None stands for any length.

    None if there is none or another one. Raises OutputError for what is no regular file, such as a pipe.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no regular file. Remove it, and give the same command again.")
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode=mode)
    except Exception:  # a damaged header makes NumPy raise whatever it meets: what it speaks of is computed again
        return None
    fits = array.ndim == len(shape) and all(n in (None, own) for n, own in zip(shape, array.shape, strict=True))
    return array if fits and array.dtype == kind and array.flags.c_contiguous else None


def mapped_array(path: Path, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Return an array of a folder of work, mapped: the one that is there if it fits, else a new one of zeros.

    A disk that is full says so now, as OSError, and does not kill when a page is written.
    """
    array = kept_array(path, shape, kind)
    if array is None:
        array = np.lib.format.open_memmap(path, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def is_complete(array: Path) -> bool:
    """Whether a file of work was marked as complete, and holds what it held then."""
    try:
        return _mark(array).read_text(encoding="ascii", errors="replace").strip() == sha256_file(array)
    except OSError:
        return False


def mark_complete(array: Path) -> None:
    """Mark a file of work as complete, with its hash."""
    with array.open("rb") as file:
        os.fsync(file.fileno())
    with atomic_file(_mark(array)) as mark:
        mark.write(f"{sha256_file(array)}\n".encode())


def _mark(array: Path) -> Path:
    return array.with_name("complete")


def remove_work(folder: Path, patterns: Iterable[str]) -> None:
    """Remove a folder of work with the files that its `patterns` name, but nothing of anybody else's in it."""
    with contextlib.suppress(OSError):
        sweep(folder)
        for path in (path for pattern in (*patterns, MANIFEST) for path in list(folder.glob(pattern))):
            path.unlink(missing_ok=True)
        os.rmdir(os.path.realpath(folder))


def discard_work(folder: Path, asked: Mapping[str, Any], patterns: Iterable[str]) -> None:
    """Remove a folder of work on an output that is complete, `asked` its manifest. Work on something else stays."""
    begun = (read_manifest(folder) if folder.is_dir() else None) or {}
    if not isinstance(options := begun.get("options"), dict) or "outputs" in begun:
        return  # nobody's work of kat's, whatever its name
    computed = {name: options[name] for name in (COMPUTED,) if name in options}
    if first_difference(begun, {**asked, "options": {**asked["options"], **computed}}) is None:
        remove_work(folder, patterns)


def checksum(*arrays: np.ndarray) -> int:
    """Return the CRC-32 of the arrays' bytes, one after the other."""
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return value
