"""Hashes of files, each computed once, and what the files were when they were read.

A hash is kept for as long as its file has the signature that it had: inode, size, and the times of the last change of
content and of anything. A file that changed a moment ago may change again without another time, so its hash is not
kept; git calls such entries of its index racily clean.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

from kat.errors import InputError

Signature: TypeAlias = tuple[int, int, int, int]
"""Inode, size in bytes, time of the last change of content, and of anything (a link, a right), in nanoseconds."""

_SETTLED = 2_000_000_000
"""Nanoseconds after which another change gets another time on every file system that is common; FAT counts in twos."""
_known: dict[str, tuple[Signature, str]] = {}


class Watch:
    """What files were when they were first read, by path."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Signature, str]] = {}

    def note(self, path: str, was: Signature, digest: str) -> None:
        """Remember a file that is read; what it was before counts."""
        self._read.setdefault(path, (was, digest))

    def first_changed(self) -> Path | None:
        """Return the first file that is not what it was, if any: gone, of other content, or written since.

        A file that got another link or other rights, and holds the same, is what it was.
        """
        for path, (was, digest) in self._read.items():
            try:
                now = signature(path)
                same = now == was if _is_settled(was) else now[:3] == was[:3]
                if not same and now[:3] != was[:3]:
                    return Path(path)
                if not same or not _is_settled(was):
                    same = sha256_file(path) == digest
            except (OSError, InputError):
                return Path(path)
            if not same:
                return Path(path)
        return None


_watch: ContextVar[Watch | None] = ContextVar("_watch", default=None)


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Watch every file whose hash is asked for with `sha256_read` in the block."""
    watch = Watch()
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


def signature(path: str | Path) -> Signature:
    """Return what tells a file from the same one after a change. Raises OSError."""
    return _signature(os.stat(path))


def sha256_file(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes. Raises InputError for one that cannot be read."""
    with _reading(Path(path)):
        return _hashed(path)[1]


def sha256_read(path: str | Path) -> str:
    """Return the hex sha256 of a file that is read, and watch it if a `watching` block is open. Raises InputError."""
    with _reading(Path(path)):
        was, digest = _hashed(path)
    if (watch := _watch.get()) is not None:
        watch.note(os.path.abspath(path), was, digest)
    return digest


def read_file(path: Path) -> bytes:
    """Return the bytes of a small file. Raises InputError for one that cannot be read."""
    with _reading(path):
        return path.read_bytes()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into an InputError; a pipe or a device, which may never end, is not read."""
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise InputError(f"{path} is {kind}; a file was expected.")
        yield
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _hashed(path: str | Path) -> tuple[Signature, str]:
    key = os.path.realpath(path)
    with open(path, "rb") as file:
        was = _signature(os.fstat(file.fileno()))
        kept = _known.get(key)
        if kept is not None and kept[0] == was:
            return kept
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _is_settled(was):  # what changed while it was hashed has other times now
        _known[key] = was, digest
    return was, digest


def _signature(state: os.stat_result) -> Signature:
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _is_settled(was: Signature) -> bool:
    """Whether a change from now on would show in the times. A clock that stands behind the file's says no."""
    return time.time_ns() - max(was[2:]) > _SETTLED
