"""Files that appear complete or not at all, and folders that are left only where something is in them."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kat.errors import OutputError, translated
from kat.folders import remove_file

TEMPORARY = ".kat-tmp-"
_HOST = re.sub(r"\W", "_", platform.node()) or "here"


@contextlib.contextmanager
def atomic_files(*paths: Path) -> Iterator[list[IO[bytes]]]:
    """Open binary files that appear under their names, in the order given, when the block ends well; else none does.

    One to which nothing was written does not appear, and an older file of its name goes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_output_error(paths[-1]))
        opened = [stack.enter_context(temporary_file(path)) for path in paths]
        yield [one.file for one in opened]
        sizes = [close(one.file) for one in opened]
        for one, size in zip(opened, sizes, strict=True):
            if size:
                one.temporary.replace(one.target)
            else:
                one.target.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open one binary file that appears under its name when the block ends well."""
    with atomic_files(path) as (file,):
        yield file


@dataclass(frozen=True)
class Opened:
    """A file that is written: under a temporary name, beside what it is to become."""

    temporary: Path
    target: Path
    file: IO[bytes]


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Opened]:
    """Open a temporary beside what it is to become; a link is followed, not replaced."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device would become a file
        raise OutputError(f"{path} is not a file that can be written. Name another output.")
    temporary = target.with_name(temporary_name() + target.name)
    with new_folder(target.parent):
        sweep(target.parent)
        try:
            with temporary.open("wb") as file:
                yield Opened(temporary, target, file)
        finally:
            remove_file(temporary)


def close(file: IO[bytes]) -> int:
    """Bring a file to the disk, close it and return its size."""
    file.flush()
    os.fsync(file.fileno())
    size = file.tell()
    file.close()
    return size


def temporary_name() -> str:
    """Return a name that says which machine and process it belongs to, and is never the same twice."""
    return f"{TEMPORARY}{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}-"


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those that it lies in; if the block fails, those that were not there and hold nothing go."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # not empty, or never made
                path.rmdir()
        raise


def sweep(folder: Path) -> None:
    """Remove what killed runs of this machine left behind: temporaries whose process is gone."""
    for path in folder.glob(f"{TEMPORARY}*"):
        host, pid, *_ = [*path.name.removeprefix(TEMPORARY).split("-"), ""]
        if host != _HOST or not pid.isdigit() or _alive(int(pid)):
            continue
        with contextlib.suppress(OSError):  # somebody else's; it is in nobody's way
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError about `path`."""
    try:
        yield
    except (OutputError, BrokenPipeError):  # a reader of what is printed is gone; no file breaks so
        raise
    except OSError as error:
        where = error.filename or path
        raise OutputError(f"{path} cannot be written: {error.strerror or error} ({where}).") from error


def saving(path: Path | str) -> contextlib.AbstractContextManager[None]:
    """Turn what torch, safetensors and transformers raise while they write into an OutputError about `path`.

    On a full disk theirs is a RuntimeError or an error of their own.
    """
    return translated(OutputError, f"{path} cannot be written", "Make room there, and give the same command again.")
