"""Worker processes, one a core or GPU: arrays go out, arrays come back, and one that dies is an error at once."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import kat.errors
from kat.errors import WorkerError
from kat.executors.base import Arrays, Facts
from kat.executors.wire import receive, send
from kat.executors.worker import PARENTS_SIGNALS

_AHEAD = 2
"""Tasks that a worker has at a time: one that it computes, one that waits."""

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""glibc returns large blocks to the system at once, and getting them back page by page cost a quarter of the speed."""


class Workers:
    """Processes that compute the same function: an `Executor`. The end of this process ends them too, however it comes.

    `function` names a function of kat as "kat.module:function"; each process calls it with one of `settings`, plain
    JSON, and no shared arrays, to get what answers its tasks and what it has to say of itself (see `Launcher.start`).
    `threads` is what each process may use.

    Raises WorkerError if a process ends before it is ready, and whatever error the function raises there.
    """

    def __init__(self, function: str, settings: Sequence[dict[str, Any]], threads: int):
        self._processes = [_start(threads) for _ in settings]
        try:
            # All of them start before the first is waited for: loading takes seconds.
            for process, values in zip(self._processes, settings, strict=True):
                _send(process, {"function": function, "settings": values})
            self._facts = [_receive(process)[0]["facts"] for process in self._processes]
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Return how many processes there are; 0 once they are closed."""
        return len(self._processes)

    @property
    def facts(self) -> Sequence[Facts]:
        """Return what each process said of itself when it was ready."""
        return self._facts

    @property
    def pids(self) -> list[int]:
        """Return the process ids."""
        return [process.pid for process in self._processes]

    def run(self, tasks: Iterable[tuple[int, Arrays]]) -> Iterator[tuple[int, Arrays]]:
        """Yield (number, result) of each numbered task, in the order in which they are done.

        Raises WorkerError if a worker ends, and whatever error one meets; the workers are closed then.
        """
        waiting, at_work = iter(tasks), dict.fromkeys(self._processes, 0)
        try:
            with selectors.DefaultSelector() as answers:
                for process in self._processes:
                    answers.register(_output(process), selectors.EVENT_READ, process)
                for process in list(at_work) * _AHEAD:
                    at_work[process] += _hand_over(process, waiting)
                while any(at_work.values()):
                    for key, _ in answers.select():
                        header, arrays = _receive(key.data)
                        at_work[key.data] += _hand_over(key.data, waiting) - 1
                        yield header["number"], arrays
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes now. What they were computing is lost."""
        for process in self._processes:
            process.kill()
            process.wait()
            _output(process).close()
            with contextlib.suppress(BrokenPipeError):
                _input(process).close()
        self._processes = []


def _input(process: subprocess.Popen) -> IO[bytes]:
    assert process.stdin is not None, "started with a pipe"
    return process.stdin


def _output(process: subprocess.Popen) -> IO[bytes]:
    assert process.stdout is not None, "started with a pipe"
    return process.stdout


def _hand_over(process: subprocess.Popen, waiting: Iterator[tuple[int, Arrays]]) -> int:
    """Send the next task to a process and return 1; return 0 if none is left."""
    task = next(waiting, None)
    if task is None:
        return 0
    number, arrays = task
    _send(process, {"number": number}, arrays)
    return 1


def _send(process: subprocess.Popen, header: dict[str, Any], arrays: Arrays | tuple[()] = ()) -> None:
    try:
        send(_input(process), header, arrays)
    except BrokenPipeError:
        raise _died(process) from None


def _receive(process: subprocess.Popen) -> tuple[dict[str, Any], Arrays]:
    message = receive(_output(process))
    if message is None:
        raise _died(process)
    if "error" in message[0]:
        raise as_raised(message[0]["error"], message[0]["message"])
    return message


def _start(threads: int) -> subprocess.Popen:
    home = str(Path(kat.errors.__file__).resolve().parent.parent)
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home not in [*folders, *site.getsitepackages()]:  # kat used from a folder that only this process knows
        folders = [*folders, home]
    path = os.pathsep.join(filter(None, folders))
    environment = os.environ | MALLOC | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    # -P: a torch.py in the working directory is not what is meant.
    command = [sys.executable, "-P", "-m", "kat.executors.worker"]
    with _signals_held():
        # Unbuffered: what a buffer had read ahead would be hidden from the selector.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back what a terminal sends to all its processes; one that is started here begins like that.

    A worker leaves signals to its parent, and says so itself only when Python and its imports are loaded.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _died(process: subprocess.Popen) -> WorkerError:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return WorkerError(f"Worker process {process.pid} closed its pipe. Start again; --processes 1 needs none.")
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    why = " (the system kills with signal 9 when memory runs out)" if code == -9 else "; its words are above"
    return WorkerError(f"Worker process {process.pid} died: {how}{why}. Start again; --processes 1 needs none.")


def as_raised(name: str, message: str) -> Exception:
    """Return the error of a worker: kat's own as what it was, except BadRowsError, which needs more than a message."""
    kind = getattr(kat.errors, name, None)
    if isinstance(kind, type) and issubclass(kind, kat.errors.KatError) and kind is not kat.errors.BadRowsError:
        return kind(message)
    return WorkerError(f"A worker process met {name}: {message}")
