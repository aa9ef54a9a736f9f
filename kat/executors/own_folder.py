"""Folders that end with their process: the next one removes those whose process was killed, and nobody else's.

A lock says that the process lives. Its number would not: in a container that shares the place, others count otherwise.
A lock is sure among the processes of one kernel, so that a folder of another machine is left alone; so is one of this
machine from before its last start.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import shutil
import stat
import tempfile
from pathlib import Path

from kat.locks import lock_file

PREFIX = "kat-ray-"
LOCK = ".kat-owner"
_GONE = ".gone"


class OwnFolder:
    """A new folder in `parent`, this process's own until `remove`; what killed processes left there goes.

    Raises OSError if it cannot be written.
    """

    def __init__(self, parent: Path):
        remove_leftovers(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
        self._owner = os.getpid()
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        # What is written comes after the lock: nobody believes a folder to be left before it says whose it was.
        if lock_file(self._lock, self.path):
            (self.path / LOCK).write_text(json.dumps(_kernel()))
        # Before the processes that will write to it, so that at the exit they end first.
        atexit.register(self.remove)

    def remove(self) -> None:
        """Remove the folder and all that it holds. Does nothing the second time, nor in a fork of this process."""
        if self._lock < 0 or os.getpid() != self._owner:
            return
        if _empty(self.path):
            _end(self.path, self._lock)
            self._lock = -1
            atexit.unregister(self.remove)


def remove_leftovers(parent: Path) -> None:
    """Remove the folders in `parent` of this user's and this machine's processes that are gone."""
    if not hasattr(os, "getuid"):  # there are no such locks
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # its owner lives, or it is somebody else's
            _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    is_open = True
    try:
        if os.read(lock, 1000) != json.dumps(_kernel()).encode() or not lock_file(lock, folder):
            return
        if not folder.name.endswith(_GONE):
            # Workers that have not noticed yet that nobody waits for them find no folder any more.
            folder = folder.rename(folder.with_name(folder.name + _GONE))
        if _empty(folder):
            is_open = False
            _end(folder, lock)
    finally:
        if is_open:
            os.close(lock)


def _empty(folder: Path) -> bool:
    """Remove all but the lock, which goes last; return whether that succeeded."""
    for entry in list(folder.iterdir()):
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink(missing_ok=True)
    return all(entry.name == LOCK for entry in folder.iterdir())


def _end(folder: Path, lock: int) -> None:
    (folder / LOCK).unlink(missing_ok=True)
    os.close(lock)  # first: a network's file system keeps a file that is open, under another name
    with contextlib.suppress(OSError):
        folder.rmdir()


def _kernel() -> dict[str, str]:
    """Name the kernel that locks are held by: the same in all containers of a machine, another after each start."""
    with contextlib.suppress(OSError):
        return {"kernel": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    return {"host": platform.node()}
