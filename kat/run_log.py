"""What each stage of a run took: a line for every output that was made in the run's folder, in RUN/log.jsonl.

Times are no part of a manifest, for the same work is to give the same bytes. A log is added to and never rewritten; a
run whose log was deleted goes on without.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

import kat
from kat.atomic import atomic_file
from kat.digests import read_file
from kat.run_folder import RUN_LOG, relative
from kat.terminal import command_line, note

_FIRST = b'{"kat_log":1}\n'
_UP = 3
"""Folders above an output in which its run's log is looked for: neighbours lie two below theirs."""
_VERSIONS = ("torch", "transformers", "numpy")


@contextlib.contextmanager
def logged(run: Path) -> Iterator[None]:
    """Begin the log of a run, if it has none; one in which nothing was logged goes if the block fails.

    One that cannot be written is said, and nothing else happens.
    """
    path = run / RUN_LOG
    is_new = not os.path.lexists(path)
    if is_new:
        with _said(path), atomic_file(path) as file:
            file.write(_FIRST)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if is_new and path.read_bytes() == _FIRST:
                path.unlink()
        raise


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, oldest first; none if it has none, or another file has its name.

    A line that was cut when a process was killed, or changed, is left out: nothing rests on it. Raises InputError for a
    log that cannot be read.
    """
    path = run / RUN_LOG
    first, *lines = [*read_file(path).splitlines(), b""] if os.path.lexists(path) else [b""]
    entries = []
    for line in lines if first + b"\n" == _FIRST else []:
        with contextlib.suppress(orjson.JSONDecodeError):
            if isinstance(entry := orjson.loads(line), dict) and _is_entry(entry):
                entries.append(entry)
    return entries


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether what a line says is of the types that it is written in."""
    texts = ("stage", "out", "command", "began", "kat_version", "python", *_VERSIONS)
    numbers = ("seconds", "peak_memory_bytes")
    kinds = dict.fromkeys(texts, str) | dict.fromkeys(numbers, int | float)
    return all(entry.get(name) is None or isinstance(entry[name], kind) for name, kind in kinds.items())


class Clock:
    """Measures one stage from here on: its time, and the most memory that the process held."""

    def __init__(self) -> None:
        self._start, self._began = time.monotonic(), datetime.now(UTC)
        with contextlib.suppress(OSError):  # Linux counts the most from here on; elsewhere it is the process's
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    @property
    def seconds(self) -> float:
        """The time since."""
        return time.monotonic() - self._start

    def log(self, stage: str, out: Path) -> None:
        """Add a line to the log of the run that an output lies in, if there is one. What fails is said."""
        path = next((p for p in _places(out) if p.is_file()), None)
        if path is None:
            return
        with _said(path), path.open("a+b") as file:  # two processes may add at once
            file.seek(0)
            if file.readline() != _FIRST:
                return  # somebody else's
            file.seek(-1, os.SEEK_END)
            cut = file.read() != b"\n"  # a process was killed while it wrote
            file.write(b"\n" * cut + orjson.dumps(self._entry(stage, out, path.parent)) + b"\n")

    def _entry(self, stage: str, out: Path, run: Path) -> dict[str, Any]:
        return {
            "stage": stage,
            "out": relative(out, run),
            "command": command_line(),
            "began": self._began.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": peak_memory(),
            "kat_version": kat.__version__,
            "python": platform.python_version(),
            **{name: version for name in _VERSIONS if (version := getattr(sys.modules.get(name), "__version__", None))},
        }


def peak_memory() -> int | None:
    """Return the most bytes that this process held, without its workers, since a Clock began; None if not known."""
    with contextlib.suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if most := [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]:
            return int(most[0]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return counted if sys.platform == "darwin" else counted * 1024
    return None


def _places(out: Path) -> list[Path]:
    folder = Path(os.path.abspath(out))
    return [parent / RUN_LOG for parent in list(folder.parents)[:_UP]]


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        note(f"log         {path} cannot be written ({error.strerror or error}): no times are kept of what is complete")
