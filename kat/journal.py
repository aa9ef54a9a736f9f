"""Finished parts of a long piece of work, written down as they are done, so that a run that was stopped goes on there.

A journal is a text file that only grows: a line "GROUP PART CHECKSUM" for each part that is done. The work itself lies
in files beside it. A line is believed only if what it speaks of still has that checksum, for the journal may run ahead
of the other files when a machine loses its power. It is locked while it is open, so that two runs never share it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kat.errors import OutputError


class Journal:
    """The open journal of a piece of work, locked until `close`.

    Raises OutputError if another process holds it, OSError if it cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab")
        try:
            _lock(self._file.fileno(), path.parent)
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


def checksum(*arrays: np.ndarray) -> int:
    """Return the CRC-32 of the arrays' bytes, one after the other."""
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return value


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
