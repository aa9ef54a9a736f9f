"""Processes of bench_encode.py, one a method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import encode_methods
import numpy as np
from encode_methods import METHODS

PAUSE = 1.0  # seconds between runs: threads of the run before spin for a while
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


class FailedError(Exception):
    """A method that cannot be started or does not get through."""


class Child:
    """A method in its process, with the times of its runs on one set of texts."""

    def __init__(self, name: str, folder: str):
        self.name, self.batch, self.times = name, None, []
        command = [sys.executable, "-W", "ignore", encode_methods.__file__, name, folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=os.environ | QUIET, **pipes)
        self._answer()

    @property
    def title(self) -> str:
        return METHODS[self.name].title + (f", batch {self.batch}" if self.batch else "")

    @property
    def median(self) -> float:
        return float(np.median(self.times))

    def prepare(self, texts: str, limit: int) -> None:
        """Warm up on some of the texts in a file, all of which the next runs embed."""
        self.batch, self.times = self._ask(texts=texts, limit=limit)["batch"], []

    def run(self, out: str) -> None:
        """One timed run."""
        time.sleep(PAUSE)
        self.times.append(self._ask(out=out)["seconds"])

    def close(self) -> None:
        self.process.communicate()

    def _ask(self, **question) -> dict:
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise FailedError("its process is gone.") from None
        return self._answer()

    def _answer(self) -> dict:
        answer = json.loads(self.process.stdout.readline() or '{"error": "its process ended."}')
        if "error" in answer:
            self.process.wait()
            raise FailedError(answer["error"])
        return answer


class Children(dict[str, Child]):
    """The methods by name; one that is not installed, or fails, is left out with a word. A context manager."""

    def __init__(self, names: list[str], folder: str):
        super().__init__()
        for name in names:
            if missing := METHODS[name].missing():
                print(f"\n{METHODS[name].title} is left out, not installed: {', '.join(missing)}", flush=True)
                continue
            try:
                self[name] = Child(name, folder)
            except FailedError as why:
                print(f"\n{METHODS[name].title} is left out: {why}", flush=True)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.values():
            child.close()

    def each(self, action: Callable[[Child], None]) -> None:
        """Let one after the other do something."""
        for child in list(self.values()):
            try:
                action(child)
            except FailedError as why:
                print(f"\n{self.pop(child.name).title} is left out from here on: {why}", flush=True)
