"""Worker processes, one a core or GPU: packs go out, vectors come back, and one that dies is an error at once."""

from __future__ import annotations

import contextlib
import os
import selectors
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

import kat.errors
from kat.embedding.engine import Settings
from kat.errors import WorkerError
from kat.executors.wire import receive, send

_AHEAD = 2
"""Packs that a worker has at a time: one that it computes, one that waits."""

_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""glibc returns large blocks to the system at once, and getting them back page by page cost a quarter of the speed."""


class Workers:
    """Processes with the same model in memory. `close` ends them; so does the end of this process, however it comes."""

    def __init__(self, settings: Settings, devices: list[str], threads: int):
        self._processes = [_start(threads) for _ in devices]
        self._next = 0
        try:
            for process, device in zip(self._processes, devices, strict=True):
                self._send(process, {"settings": asdict(replace(settings, device=device)), "threads": threads})
            for process in self._processes:
                self._receive(process)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def run(self, packs: Iterable[tuple[int, list[np.ndarray]]]) -> Iterator[tuple[int, np.ndarray]]:
        """Vectors [B, D] of each numbered pack of token ids, in the order in which they are done.

        Raises WorkerError if a worker ends, and whatever error one meets; the workers are closed then.
        """
        waiting, left = iter(packs), dict.fromkeys(self._processes, 0)
        try:
            with selectors.DefaultSelector() as ready:
                for process in self._processes:
                    ready.register(process.stdout, selectors.EVENT_READ, process)
                for process in list(left) * _AHEAD:
                    left[process] += self._hand_over(process, waiting)
                while any(left.values()):
                    for key, _ in ready.select():
                        header, arrays = self._receive(key.data)
                        left[key.data] += self._hand_over(key.data, waiting) - 1
                        yield header["number"], arrays[0]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes now. What they were computing is lost."""
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        self._processes = []

    def _hand_over(self, process: subprocess.Popen, waiting: Iterator[tuple[int, list[np.ndarray]]]) -> int:
        found = next(waiting, None)
        if found is None:
            return 0
        number, tokens = found
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        self._send(process, {"number": number}, [np.concatenate(tokens), lengths])
        return 1

    def _send(self, process: subprocess.Popen, header: dict, arrays: list[np.ndarray] | tuple = ()) -> None:
        try:
            send(process.stdin, header, arrays)
        except BrokenPipeError:
            raise _died(process) from None

    def _receive(self, process: subprocess.Popen) -> tuple[dict, list[np.ndarray]]:
        message = receive(process.stdout)
        if message is None:
            raise _died(process)
        if "error" in message[0]:
            raise _as_raised(message[0]["error"], message[0]["message"])
        return message


def _start(threads: int) -> subprocess.Popen:
    home = str(Path(kat.errors.__file__).resolve().parent.parent)
    found = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home not in [*found, *site.getsitepackages()]:  # kat used from a folder that only this process knows
        found = [*found, home]
    path = os.pathsep.join(filter(None, found))
    environment = os.environ | _MALLOC | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    # -P: a torch.py in the working directory is not what is meant.
    command = [sys.executable, "-P", "-m", "kat.executors.worker"]
    # Unbuffered: what a buffer had read ahead would be hidden from the selector.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0)


def _died(process: subprocess.Popen) -> WorkerError:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return WorkerError(f"Worker process {process.pid} closed its pipe. Start again; --processes 1 needs none.")
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    why = " (the system kills with signal 9 when memory runs out)" if code == -9 else "; its words are above"
    return WorkerError(f"Worker process {process.pid} died: {how}{why}. Start again; --processes 1 needs none.")


def _as_raised(name: str, message: str) -> Exception:
    kind = getattr(kat.errors, name, None)
    if isinstance(kind, type) and issubclass(kind, kat.errors.KatError) and kind is not kat.errors.BadRowsError:
        return kind(message)
    return WorkerError(f"A worker process met {name}: {message}")
