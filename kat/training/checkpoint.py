"""The checkpoint of a training: a run that is stopped, however it is stopped, goes on and ends with the same weights.

Beside the output stands a folder OUT.unfinished:

    manifest.json   what is trained from what: the output's own manifest
    journal         locked while a process is at work
    state.pt        parameters that train, optimiser, progress; written under its name when it is complete
    log.jsonl       the numbers of every step; those after the state's step are taken again, and are cut off

The state holds tensors and plain values alone, and is read with `weights_only`: nothing in it can run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from kat import artifacts
from kat.errors import OutputError
from kat.journal import Journal

if TYPE_CHECKING:
    from kat.training.ranks import Ranks

_STATE, _LOG, _JOURNAL = "state.pt", "log.jsonl", "journal"


class Checkpoint(Protocol):
    """Where a training's state is kept."""

    def load(self, device: Any) -> dict[str, Any] | None:
        """Return the state, None if there is none."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state."""


def state_of_all(checkpoint: Checkpoint | None, ranks: Ranks, device: Any) -> dict[str, Any] | None:
    """Return the state to go on from. Other ranks read it when rank 0 has found it good."""
    if checkpoint is None:
        return None
    state = checkpoint.load(device) if not ranks.rank else None
    is_there = ranks.told(state is not None)
    return checkpoint.load(device) if ranks.rank and is_there else state


class ReadCheckpoint:
    """A checkpoint that another process keeps, and this one reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, device: Any) -> dict[str, Any] | None:
        """Return the state."""
        import torch

        state: dict[str, Any] = torch.load(self.folder / _STATE, map_location=device, weights_only=True)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write nothing."""


class TrainingCheckpoint:
    """The folder of a checkpoint; a context manager that keeps it from other processes.

    `log` holds the numbers of the steps that the state includes, and of all that are added. Raises OutputError where
    another process is at work, or where the folder holds work on something else and `overwrite` is off.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder = folder
        self.log: list[dict[str, Any]] = []
        with artifacts.as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / _JOURNAL)
            try:
                self._begin(asked, overwrite)
            except BaseException:
                self._journal.close()
                raise

    def __enter__(self) -> TrainingCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()  # and with it the lock

    def load(self, device: Any) -> dict[str, Any] | None:
        """Return the state, None if there is none, and cut the log to its step."""
        import torch

        path = self.folder / _STATE
        if not path.is_file():
            self._write_log([])
            return None
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except torch.OutOfMemoryError:  # says nothing of the file
            raise
        # A damaged file makes torch raise whatever it meets, and some of its words advise to run what is in the file.
        except Exception as error:
            raise OutputError(
                f"{path} is damaged ({type(error).__name__}). Remove {self.folder} to start over."
            ) from error
        self._write_log([one for one in self._read_log() if one["step"] <= state["progress"]["step"]])
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state."""
        import torch

        with artifacts.atomic_file(self.folder / _STATE) as file:
            torch.save(dict(state), file)

    def add(self, numbers: dict[str, Any]) -> None:
        """Add a step's numbers to the log."""
        self.log.append(numbers)
        with artifacts.as_output_error(self.folder), (self.folder / _LOG).open("ab") as file:
            file.write(orjson.dumps(numbers) + b"\n")

    def remove(self) -> None:
        """Remove the folder, but nothing of anybody else's in it."""
        with contextlib.suppress(OSError):
            for name in (_STATE, _LOG, _JOURNAL, artifacts.MANIFEST):
                (self.folder / name).unlink(missing_ok=True)
            os.rmdir(os.path.realpath(self.folder))

    def _begin(self, asked: Mapping[str, Any], overwrite: bool) -> None:
        """Take the folder's work up if it is on the same; else empty it if told or if nothing was saved, or raise."""
        begun = artifacts.read_manifest(self.folder)
        difference = None if begun is None else artifacts.first_difference(begun, asked)
        # Without a state there is nothing to lose: what failed before its first save is begun again, as told now.
        if difference and not overwrite and (self.folder / _STATE).is_file():
            raise OutputError(
                f"{self.folder} holds the checkpoint of a training that {difference}. Give the same again to finish "
                "it, or add --overwrite to start over."
            )
        if begun is None or difference:
            for name in (_STATE, _LOG):
                (self.folder / name).unlink(missing_ok=True)
            with artifacts.atomic_file(self.folder / artifacts.MANIFEST) as file:
                file.write(artifacts.json_bytes(asked))

    def _read_log(self) -> Iterator[dict[str, Any]]:
        """Yield the steps of the log; a line that was cut off ends it."""
        path = self.folder / _LOG
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
            if line.endswith(b"\n"):
                with contextlib.suppress(orjson.JSONDecodeError):
                    yield orjson.loads(line)

    def _write_log(self, steps: list[dict[str, Any]]) -> None:
        self.log = steps
        with artifacts.atomic_file(self.folder / _LOG) as file:
            file.write(b"".join(orjson.dumps(one) + b"\n" for one in steps))
