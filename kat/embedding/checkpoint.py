"""The checkpoint of an embedding run: a run that is stopped, however it is stopped, goes on where it was.

Beside the output stands a folder OUT.unfinished:

    manifest.json    what the vectors are made from: the output's own manifest, device and precision
    journal          a line for each pack that is computed and each window that is complete, with a checksum
    embeddings.npy   [N, D] float32, rows of complete windows
    lengths.npy      [N, 2] int32: tokens of the text, tokens lost
    pooled-W.npy     [pieces, D] float32 of the window at work
    workers.json     the kinds of a cluster's workers that computed any of it, in every run

Arrays are mapped, so that the vectors are the system's to keep or to write. `kat.journal` says when a line is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat import artifacts
from kat.atomic import as_output_error, atomic_file
from kat.errors import OutputError
from kat.folders import entries
from kat.journal import Journal, checksum, discard_work, mapped_array, remove_work
from kat.run_folder import LENGTHS, VECTORS, checkpoint_path

_ARRAYS = (VECTORS, LENGTHS, "pooled-*.npy")
_WORKERS = "workers.json"
_FILES = (*_ARRAYS, "journal", _WORKERS)
_COMPLETE = "whole"
"""In the journal, in place of a pack's number: all rows of the window are in place."""


class EmbeddingCheckpoint:
    """The folder of a checkpoint; a context manager that keeps it from other processes.

    `asked` is the manifest of what the vectors are made from, `shape` (N, D) theirs. Raises OutputError where another
    process is at work, or where the folder holds work on something else and `overwrite` is off.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], shape: tuple[int, int], *, overwrite: bool = False):
        self.folder = folder
        with as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / "journal")
            try:
                self._begin(asked, overwrite)
                self._checksums = self._journal.read()
                self._ways = _read_ways(folder / _WORKERS)
                self.vectors = mapped_array(folder / VECTORS, shape, np.dtype(np.float32))
                self.lengths = mapped_array(folder / LENGTHS, (shape[0], 2), np.dtype(np.int32))
            except BaseException:
                self._journal.close()
                raise
        self._pooled = np.empty((0, 0), np.float32)  # of the window at work

    def __enter__(self) -> EmbeddingCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()  # and with it the lock

    @property
    def resumed(self) -> bool:
        """Return whether an earlier run left something."""
        return bool(self._checksums)

    @property
    def ways(self) -> list[dict[str, Any]]:
        """Return the kinds of a cluster's workers that computed any of the vectors, sorted; none without a cluster."""
        return self._ways

    def computed_by(self, ways: Sequence[Mapping[str, Any]]) -> None:
        """Note of which kinds the workers are that compute, before anything of theirs is noted as done."""
        if new := [dict(way) for way in ways if way not in self._ways]:
            self._ways = sorted([*self._ways, *new], key=artifacts.json_bytes)
            with as_output_error(self.folder), atomic_file(self.folder / _WORKERS) as file:
                file.write(artifacts.json_bytes(self._ways))

    def is_complete(self, window: int, rows: slice) -> bool:
        """Return whether an earlier run completed a window, its rows unharmed."""
        return self._noted(window, _COMPLETE) == checksum(self.vectors[rows], self.lengths[rows])

    def begin_window(self, window: int, plan: Sequence[np.ndarray], pieces: int) -> tuple[np.ndarray, list[int]]:
        """Return where a window's pooled vectors [pieces, D] go, and the numbers of the packs still to compute.

        `plan` holds the rows of each pack among the pieces.
        """
        shape = (pieces, self.vectors.shape[1])
        with as_output_error(self.folder):
            self._pooled = mapped_array(self.folder / f"pooled-{window}.npy", shape, np.dtype(np.float32))
        left = [n for n, rows in enumerate(plan) if self._noted(window, n) != checksum(self._pooled[rows])]
        return self._pooled, left

    def pack_done(self, window: int, number: int, rows: np.ndarray) -> None:
        """Note that a pack's vectors are in place."""
        self._note(window, number, checksum(self._pooled[rows]))

    def complete_window(self, window: int, rows: slice) -> None:
        """Note that all rows of a window are in place; its pooled vectors are needed no more, and go."""
        self._note(window, _COMPLETE, checksum(self.vectors[rows], self.lengths[rows]))
        self._pooled = np.empty((0, 0), np.float32)
        (self.folder / f"pooled-{window}.npy").unlink()

    def _noted(self, window: int, part: int | str) -> int | None:
        return self._checksums.get((str(window), str(part)))

    def _note(self, window: int, part: int | str, value: int) -> None:
        with as_output_error(self.folder):
            self._journal.add(window, part, value)

    def _begin(self, asked: Mapping[str, Any], overwrite: bool) -> None:
        """Take the folder's work up if it is on the same; else empty it if told, or raise."""
        begun = artifacts.read_manifest(self.folder)
        difference = None if begun is None else artifacts.first_difference(begun, asked)
        if difference and not overwrite:
            raise OutputError(
                f"{self.folder} holds the checkpoint of a run that {difference}. Give the same again to finish "
                "it, or add --overwrite to start over."
            )
        if begun is None and not overwrite and any(_arrays(self.folder)):
            raise OutputError(f"{self.folder} holds arrays that kat did not begin. Move them, or add --overwrite.")
        if begun is None or difference:
            for path in _arrays(self.folder):
                path.unlink()
            (self.folder / _WORKERS).unlink(missing_ok=True)
            self._journal.clear()
            with atomic_file(self.folder / artifacts.MANIFEST) as file:
                file.write(artifacts.json_bytes(asked))


def discard(out: Path, asked: Mapping[str, Any]) -> None:
    """Remove the checkpoint of an output that is complete. One of something else stays."""
    discard_work(checkpoint_path(out), asked, _FILES)


def remove(folder: Path) -> None:
    """Remove the folder of a checkpoint, but nothing of anybody else's in it."""
    remove_work(folder, _FILES)


def _read_ways(path: Path) -> list[dict[str, Any]]:
    """Return what an earlier run noted. Raises OutputError for a damaged file: nobody could say who computed."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        raise OutputError(f"{path} is damaged. Add --overwrite to start over.") from None


def _arrays(folder: Path) -> Iterator[Path]:
    for pattern in _ARRAYS:
        yield from entries(folder, pattern)
