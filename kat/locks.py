"""One writer at a time: a lock on an output that dies with its process, and says who holds it."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson

from kat.errors import OutputError
from kat.folders import remove_file
from kat.terminal import note

_LOCK = ".kat-lock-"
_held: set[Path] = set()
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def lock_path(output: Path) -> Path:
    """Return where the lock of an output stands: a hidden file beside it, while it is written."""
    target = Path(os.path.realpath(output))
    return target.with_name(f"{_LOCK}{target.name}")


def is_lock(name: str) -> bool:
    """Whether a file of this name is a lock, which says nothing but who writes."""
    return name.startswith(_LOCK)


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output, whose folder is there, for as long as the block runs.

    What this process holds already, it holds. A file system that knows no locks, or a folder that cannot be written
    (whoever writes to it will say so), has none. Raises OutputError, saying who writes, if another process holds it.
    """
    path = lock_path(output)
    if path in _held:
        yield
        return
    try:
        lock = _take(path, output)
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _UNWRITABLE:
            raise
        lock = None
    if lock is None:
        yield
        return
    _held.add(path)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, orjson.dumps({"host": platform.node(), "pid": os.getpid(), "started": _now()}), 0)
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            remove_file(path)  # while it is held: who opened it before looks again whether it is still there
        os.close(lock)


def lock_file(file: int, what: Path, holder: bytes = b"", *, waiting: str | None = None) -> bool:
    """Lock an open file; return whether its file system could. Raises OutputError if another process holds it, or with
    `waiting`, what is said then, waits until it has ended.

    The lock is released when the file is closed, or the process ends in whatever way.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix: two runs at once are the user's to avoid
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            raise OutputError(
                f"{what} is being written by {_named(holder)}. Wait until it has ended, or name another output."
            ) from None
        note(waiting)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return False
    return True


def _take(path: Path, output: Path) -> int | None:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            if not lock_file(lock, output, os.pread(lock, 1000, 0)):
                path.unlink(missing_ok=True)
                os.close(lock)
                return None
            if _is_still(path, lock):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its holder removed it in between


def _is_still(path: Path, lock: int) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _named(holder: bytes) -> str:
    """Say who a lock's content names; a lock may just be in the making, or held on a host of another name."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = orjson.loads(holder)
        return f"process {told['pid']} on {told['host']}, which began at {told['started']}"
    return "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
