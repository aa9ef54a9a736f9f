"""Every file-system call that a process makes below a folder, numbered by call site, and a fault at one of them.

Python's own calls are counted one by one: files are opened unbuffered underneath, so that what counts is what reaches
the system. Writers that are compiled (safetensors, tokenizers, pyarrow) count as one call each. What maps a file into
memory (arrays of a checkpoint) is seen as it is opened and closed, not as it is written.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kat

_KAT = str(Path(kat.__file__).parent) + os.sep
KILLS = ("kill before", "kill midway")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
STOP = "stop before"
_CHANGES = ("replace", "rename", "unlink", "remove", "rmdir")
_ADDS = ("mkdir", "link", "symlink", "open to write")
_FAULTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_CHANGES, ("kill before", "EIO", "EACCES", "EROFS")),
    **dict.fromkeys(_ADDS, ("kill before", "ENOSPC", "EIO", "EACCES", "EROFS")),
    "write": ("kill before", "kill midway", "ENOSPC", "EIO"),
    "truncate": ("kill before", "EIO"),
    "fsync": ("kill before", "ENOSPC", "EIO"),
    "close": ("kill before", "ENOSPC", "EIO"),
    "compiled": ("kill before", "kill midway", "ENOSPC", "EIO"),
    "open to read": ("EIO", "EACCES"),
    "read": ("EIO",),
    "list": ("EIO", "EACCES"),
}
"""What can happen at each kind of call. A kill at a call that changes nothing is the kill before the next that does."""


@dataclass(frozen=True)
class Call:
    """One call: where in kat, of what kind, and the how-many-eth of these."""

    site: str
    kind: str
    number: int

    @property
    def faults(self) -> tuple[str, ...]:
        """What can happen here."""
        return (*_FAULTS[self.kind], *SIGNALS)


@dataclass
class Hook:
    """Counts the calls below a folder; at the `at` of them, `fault` happens."""

    folder: str
    at: Call | None = None
    fault: str = ""
    calls: list[Call] = field(default_factory=list)
    happened: bool = False
    _numbers: Counter[tuple[str, str]] = field(default_factory=Counter)

    def holds(self, path: Any, dir_fd: int | None = None) -> bool:
        """Whether a path, or an open file, is below the folder."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        elif dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder + os.sep)

    def meet(self, kind: str, path: Any, halfway: Callable[[], object] = lambda: None) -> None:
        """Count a call, and let the fault happen if this is its place; `halfway` does a part of the call's work."""
        site = f"{_place()} {kind}"
        self._numbers[site, kind] += 1
        call = Call(site, kind, self._numbers[site, kind])
        self.calls.append(call)
        if call != self.at:
            return
        self.happened = True
        if self.fault in KILLS:
            if self.fault == "kill midway":
                halfway()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind in ("write", "compiled") and self.fault == "ENOSPC":
            halfway()
        if self.fault in SIGNALS:
            os.kill(os.getpid(), getattr(signal, self.fault))
            return
        if self.fault == STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number), *([] if isinstance(path, int) else [os.fspath(path)]))


def _place() -> str:
    """The innermost line of kat's that is at work."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if (name := frame.f_code.co_filename).startswith(_KAT):
            return f"kat/{name.removeprefix(_KAT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside kat"


class _Raw(io.FileIO):
    """A file whose reads, writes and end are counted."""

    hook: Hook
    writes: bool

    def write(self, data: Any) -> int:
        half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
        self.hook.meet("write", self.fileno(), lambda: super(_Raw, self).write(half))
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        self.hook.meet("read", self.fileno())
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.hook.meet("read", self.fileno())
        return super().readall()

    def truncate(self, size: int | None = None) -> int:
        self.hook.meet("truncate", self.fileno())
        return super().truncate(size)

    def close(self) -> None:
        was_open = not self.closed
        number = self.fileno() if was_open else -1
        inside = was_open and self.writes and self.hook.holds(number)
        super().close()
        if inside:  # as on a network's disk: the file is closed, and what was written may be lost
            self.hook.meet("close", number)


_OPEN = io.open


def _open(hook: Hook, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **told: Any) -> Any:
    """Open a file as `open` does, counted if it is below the folder."""
    if isinstance(file, int) or not hook.holds(file):
        return _OPEN(file, mode, buffering, *text, **told)
    writes = any(letter in mode for letter in "wax+")
    hook.meet("open to write" if writes else "open to read", file)
    raw = _Raw(file, mode.replace("b", "").replace("t", ""), opener=told.pop("opener", None))
    raw.hook, raw.writes = hook, writes
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    kind = io.BufferedRandom if "+" in mode else io.BufferedWriter if writes else io.BufferedReader
    file = kind(raw, size)
    if "b" in mode:
        return file
    named = dict(zip(("encoding", "errors", "newline"), text, strict=False))
    wrapped = io.TextIOWrapper(file, **(named | {k: v for k, v in told.items() if k != "closefd"}))
    wrapped.mode = mode
    return wrapped


def install(hook: Hook) -> None:
    """Count this process's calls from now on, to its end."""
    io.open = builtins.open = functools.partial(_open, hook)
    for name in (*_CHANGES, "mkdir"):
        setattr(os, name, _counted(hook, getattr(os, name), name))
    for name in ("link", "symlink"):
        setattr(os, name, _counted(hook, getattr(os, name), name, place=1))
    for name, kind in (("truncate", "truncate"), ("ftruncate", "truncate"), ("fsync", "fsync"), ("sendfile", "write")):
        setattr(os, name, _counted(hook, getattr(os, name), kind))
    for name in ("scandir", "listdir"):
        setattr(os, name, _counted(hook, getattr(os, name), "list"))
    os.open = functools.partial(_low_open, hook, os.open)
    for owner, name, path_of in _compiled():
        setattr(owner, name, _compiled_call(hook, getattr(owner, name), path_of))
    _keep_arrays_in_python()


def _counted(hook: Hook, call: Callable[..., Any], kind: str, place: int = 0) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(*args: Any, **told: Any) -> Any:
        path = args[place] if len(args) > place else "."
        if hook.holds(path, told.get("dir_fd")):
            hook.meet(kind, path)
        return call(*args, **told)

    return counted


def _low_open(hook: Hook, call: Callable[..., int], path: Any, flags: int, *args: Any, **told: Any) -> int:
    if not isinstance(path, int) and not flags & os.O_DIRECTORY and hook.holds(path, told.get("dir_fd")):
        hook.meet("open to write" if flags & (os.O_WRONLY | os.O_RDWR) else "open to read", path)
    return call(path, flags, *args, **told)


def _compiled() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Give the compiled writers that take a path: where each is called, and how its arguments name the path."""
    if (safetensors := sys.modules.get("safetensors.torch")) is not None:
        yield safetensors, "serialize_file", lambda tensors, path, *_, **__: path
    if (fast := sys.modules.get("transformers.tokenization_utils_tokenizers")) is not None:
        yield fast.TokenizersBackend, "_save_pretrained", lambda self, save_directory, *_, **__: save_directory
    if (parquet := sys.modules.get("pyarrow.parquet")) is not None:
        yield parquet.ParquetWriter, "__init__", lambda self, where, *_, **__: where
        yield parquet.ParquetWriter, "write_table", lambda self, *_, **__: self.where
        yield parquet.ParquetWriter, "close", lambda self: self.where if self.is_open else None


def _compiled_call(hook: Hook, call: Callable[..., Any], path_of: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(*args: Any, **told: Any) -> Any:
        path = path_of(*args, **told)
        if isinstance(path, str | os.PathLike) and hook.holds(path):
            hook.meet("compiled", path, lambda: call(*args, **told))
        return call(*args, **told)

    return counted


def _keep_arrays_in_python() -> None:
    """Let NumPy write arrays through the file that it is given, not past it."""
    if "numpy" in sys.modules:
        from numpy.lib import _format_impl

        _format_impl.isfileobj = lambda file: False
