"""What a worker on a cluster does: it learns a function of kat's by name, and answers tasks with it.

Errors travel as their names and messages, as they do between processes of one machine: the other side need not be able
to unpickle them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from kat import __version__
from kat.errors import OptionError, WorkerError
from kat.executors.base import Arrays, Compute
from kat.executors.wire import receive, send
from kat.executors.worker import resolve


class Actor:
    """One worker, in a process of its own. With a `folder` that all machines see its results are files there."""

    def __init__(self, folder: str | None = None) -> None:
        self._compute: Compute | None = None
        self._folder = folder

    def started(self) -> None:
        """Say that there is a process, before anything is loaded."""

    def begin(self, version: str, function: str, settings: dict[str, Any], *shared: np.ndarray) -> dict[str, Any]:
        """Get ready for tasks of one kind; return {"facts": …} or {"error": name, "message": …}.

        `version` is that of kat where the tasks come from.
        """
        self._compute = None  # the last work's model goes before the next one's comes
        try:
            if version != __version__:
                raise OptionError(f"has kat {__version__}, and the command {version}. Install the same.")
            if self._folder is not None and not Path(self._folder).is_dir():
                raise OptionError(f"does not see {self._folder}: --shared_dir must be a folder that all machines see.")
            self._compute, facts = resolve(function)(settings, shared)
        except Exception as error:  # told to the driver, which raises it there
            return _told(error)
        who = {"host": socket.gethostname(), "pid": os.getpid(), "kat": __version__}
        return {"facts": {**facts, **who}}

    def compute(self, arrays: Arrays) -> dict[str, Any]:
        """Answer one task; return {"arrays": …}, {"file": name} or {"error": name, "message": …}."""
        assert self._compute is not None, "begin comes first"
        try:
            results = self._compute(arrays)
            return {"arrays": results} if self._folder is None else {"file": _written(self._folder, results)}
        except Exception as error:
            return _told(error)


def handed_over(file: str) -> Arrays:
    """Return the arrays that a worker wrote, and remove its file. Raises WorkerError if they are not complete."""
    path, message = Path(file), None
    with contextlib.suppress(OSError), path.open("rb") as pipe:
        message = receive(pipe)
    if message is None:
        raise WorkerError(f"{path} is not complete on this machine. Is --shared_dir a folder that all machines see?")
    path.unlink()
    return message[1]


def _written(folder: str, arrays: Arrays) -> str:
    path = Path(folder) / uuid.uuid4().hex
    with path.open("wb") as pipe:
        send(pipe, {}, arrays)
        os.fsync(pipe.fileno())
    return str(path)


def _told(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": f"On {socket.gethostname()}: {error}"}
