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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from kat import artifacts
from kat.atomic import as_output_error, atomic_file, saving
from kat.errors import OutputError, translated
from kat.journal import Journal, remove_work

if TYPE_CHECKING:
    from kat.training.ranks import Ranks

_STATE, _LOG, _JOURNAL = "state.pt", "log.jsonl", "journal"
FILES = (_STATE, _LOG, _JOURNAL)


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


class Trainee(Protocol):
    """What a checkpoint keeps the state of."""

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""


def restored(trainer: Trainee, checkpoint: Checkpoint | None, ranks: Ranks, device: Any) -> bool:
    """Go on from the state of a checkpoint; return whether there was one. Raises OutputError for a damaged one."""
    state = state_of_all(checkpoint, ranks, device)
    if state is None:
        return False
    folder = getattr(checkpoint, "folder", "the checkpoint")
    with translated(OutputError, f"The state in {folder} is damaged", f"Remove {folder} to start over."):
        if misfit := _misfit(state, trainer.state()) or _optimizer_misfit(state):
            raise ValueError(misfit)
        trainer.load_state(state)
    return True


def _misfit(kept: Any, fresh: Any, name: str = "state") -> str | None:
    """Return what a state has otherwise than one of the same training at its start; None if it fits."""
    import torch

    if isinstance(fresh, torch.Tensor):
        fits = isinstance(kept, torch.Tensor) and kept.shape == fresh.shape and kept.dtype == fresh.dtype
        return None if fits and not kept.is_sparse else f"{name} is not a tensor of shape {list(fresh.shape)}"
    if isinstance(fresh, dict) and isinstance(kept, dict):
        if missing := [key for key in fresh if key not in kept]:
            return f"{name} lacks {missing[0]}"
        return next((bad for key in fresh if (bad := _misfit(kept[key], fresh[key], f"{name}.{key}"))), None)
    if isinstance(fresh, list) and isinstance(kept, list):
        if fresh and len(fresh) != len(kept):
            return f"{name} has {len(kept)} parts, not {len(fresh)}"
        pairs = zip(kept, fresh, strict=False)
        return next((bad for i, both in enumerate(pairs) if (bad := _misfit(*both, f"{name}[{i}]"))), None)
    kinds = (float, int) if isinstance(fresh, float) else type(fresh)
    fits = isinstance(kept, kinds) and (isinstance(fresh, bool) or not isinstance(kept, bool))
    return None if fits else f"{name} is {kept!r:.40}"


def _optimizer_misfit(state: dict[str, Any]) -> str | None:
    """Return which tensor that an optimizer holds of a parameter is not of its shape; None if all are."""
    import torch

    shapes = [one.shape for one in state["parameters"]]
    for number, held in state["optimizer"]["state"].items():
        for name, value in held.items():
            if not isinstance(value, torch.Tensor) or value.shape not in (shapes[number], torch.Size([])):
                return f"{name} of parameter {number} is not of its shape"
    best = state.get("best", [])
    shaped = [isinstance(one, torch.Tensor) and one.shape == own for one, own in zip(best, shapes, strict=False)]
    return None if all(shaped) and len(best) in (0, len(shapes)) else "best does not hold the parameters"


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
        with as_output_error(folder):
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
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is no regular file. Remove {self.folder} to start over.")
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
        try:
            step = state["progress"]["step"] + 0
            parts = state["parameters"], state["optimizer"]["state"]
        except (LookupError, TypeError) as error:
            raise OutputError(f"{path} holds no state of a training. Remove {self.folder} to start over.") from error
        del parts
        self._write_log([one for one in self._read_log() if one["step"] <= step])
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state."""
        import torch

        with atomic_file(self.folder / _STATE) as file, saving(self.folder / _STATE):
            torch.save(dict(state), file)

    def add(self, numbers: dict[str, Any]) -> None:
        """Add a step's numbers to the log."""
        self.log.append(numbers)
        with as_output_error(self.folder), (self.folder / _LOG).open("ab") as file:
            file.write(orjson.dumps(numbers) + b"\n")

    def remove(self) -> None:
        """Remove the folder, but nothing of anybody else's in it."""
        remove_work(self.folder, FILES)

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
            with atomic_file(self.folder / artifacts.MANIFEST) as file:
                file.write(artifacts.json_bytes(asked))

    def _read_log(self) -> Iterator[dict[str, Any]]:
        """Yield the steps of the log; a line that was cut off ends it."""
        path = self.folder / _LOG
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
            if line.endswith(b"\n"):
                with contextlib.suppress(orjson.JSONDecodeError):
                    numbers = orjson.loads(line)
                    if isinstance(numbers, dict) and isinstance(numbers.get("step"), int):
                        yield numbers

    def _write_log(self, steps: list[dict[str, Any]]) -> None:
        self.log = steps
        with atomic_file(self.folder / _LOG) as file:
            file.write(b"".join(orjson.dumps(one) + b"\n" for one in steps))
