"""Rewards of many pairs: every prompt's trunk once, every distinct completion once, what is done kept on disk.

Beside the output stands a folder OUT.unfinished with the rewards of all branches, rewards.npy [E] float32, and a
journal with a line and a checksum for each row that is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from kat import artifacts
from kat.atomic import as_output_error, atomic_file
from kat.devices import torch_threads
from kat.errors import OutputError
from kat.journal import Journal, checksum, mapped_array, remove_work
from kat.packing.trunks import Row
from kat.terminal import bar_off
from kat.training.ranks import OneRank, Ranks
from kat.training.rewarders import BranchRow, branch_rows, branches_of, first_branches, tokens_of_branches
from kat.training.tokens import TokenPairs

_REWARDS, _JOURNAL = "rewards.npy", "journal"
FILES = (_REWARDS, _JOURNAL)
ROUND = 8
"""Rows a rank between two sums over several ranks."""


class Scorer(Protocol):
    """What gives completions a number: a reward model, or a policy by their log-probabilities."""

    def rewards(self, row: Row, ends: np.ndarray) -> torch.Tensor:
        """Return numbers [E] float32 of the sequences that end with these tokens of a row."""


def rewards_of(
    model: Scorer,
    data: TokenPairs,
    budget: int,
    *,
    kept: ScoreCheckpoint | None = None,
    ranks: Ranks | None = None,
    progress: bool = False,
    what: str = "score",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rewards [P] float32 of the chosen and of the rejected completions, `budget` tokens at a time.

    With `kept`, rows that an earlier run computed are not computed again. Several `ranks` call this alike, take rows in
    turn, and get all rewards; `kept` is rank 0's. `what` is the name of the progress bar.
    """
    from tqdm import tqdm

    ranks = ranks or OneRank()
    first = first_branches(data.prompts)
    rewards = np.zeros(int(first[-1]), np.float32) if kept is None else kept.begin(int(first[-1]))
    needed = branches_of(data)
    total = tokens_of_branches(data.prompts, needed)
    bar = tqdm(total=total, unit="token", unit_scale=True, desc=what, disable=bar_off(progress), delay=2)
    with torch.no_grad(), torch_threads(), bar:
        for rows in _batches(enumerate(branch_rows(data.prompts, needed, budget)), ranks.count):
            todo = ranks.told(
                [number for number, row in rows if kept is None or not kept.is_done(number, row.branches)]
            )
            _compute(model, [(n, row) for n, row in rows if n in todo], rewards, ranks)
            for number, row in rows:
                if kept is not None and number in todo:
                    kept.done(number, row.branches)
                bar.update(row.row.layout.total)
    if ranks.count > 1:  # what rank 0 had kept is known to it alone
        shared = torch.from_numpy(np.array(rewards) if not ranks.rank else np.zeros_like(rewards))
        ranks.sum([shared])
        rewards = shared.numpy()
    return rewards[first[data.prompt] + data.chosen], rewards[first[data.prompt] + data.rejected]


def _batches(rows: Iterable[tuple[int, BranchRow]], ranks: int) -> Iterator[list[tuple[int, BranchRow]]]:
    """Yield rows in lists that several ranks share out, so that they wait for each other now and then only."""
    rows = iter(rows)
    while some := list(islice(rows, 1 if ranks == 1 else ROUND * ranks)):
        yield some


def _compute(model: Scorer, rows: list[tuple[int, BranchRow]], rewards: np.ndarray, ranks: Ranks) -> None:
    """Write the rewards of rows' branches into `rewards` [E], the same on every rank."""
    if not rows:
        return
    branches = [row.branches for _, row in rows]
    parts = [torch.zeros(len(own)) for own in branches]
    for place in range(ranks.rank, len(rows), ranks.count):
        _, row = rows[place]
        parts[place] = model.rewards(row.row, row.ends).float().cpu()
    ranks.sum(parts)
    for own, values in zip(branches, parts, strict=True):
        rewards[own] = values.numpy()


class ScoreCheckpoint:
    """The folder of unfinished scores; a context manager that keeps it from other processes.

    Raises OutputError where another process is at work, unless `waiting` is what is said while it is waited for, or the
    folder holds work on something else (`overwrite` off).
    """

    def __init__(
        self, folder: Path, asked: Mapping[str, Any], *, overwrite: bool = False, waiting: str | None = None
    ) -> None:
        self.folder = folder
        self._rewards = np.empty(0, np.float32)
        with as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / _JOURNAL, waiting=waiting)
            try:
                begun = artifacts.read_manifest(folder)
                difference = None if begun is None else artifacts.first_difference(begun, asked)
                if difference and not overwrite:
                    raise OutputError(
                        f"{folder} holds unfinished scores that {difference}. Give the same again to finish them, or "
                        "add --overwrite to start over."
                    )
                if begun is None or difference:
                    self._journal.clear()
                    with atomic_file(folder / artifacts.MANIFEST) as file:
                        file.write(artifacts.json_bytes(asked))
                self._checksums = self._journal.read()
            except BaseException:
                self._journal.close()
                raise

    def __enter__(self) -> ScoreCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def begin(self, branches: int) -> np.ndarray:
        """Return where the rewards [E] go, mapped from the file."""
        with as_output_error(self.folder):
            array = mapped_array(self.folder / _REWARDS, (branches,), np.dtype(np.float32))
        self._rewards = array
        return array

    def is_done(self, number: int, branches: np.ndarray) -> bool:
        """Return whether an earlier run computed a row, its rewards unharmed."""
        return self._checksums.get(("row", str(number))) == checksum(self._rewards[branches])

    def done(self, number: int, branches: np.ndarray) -> None:
        """Note that a row's rewards are in place."""
        with as_output_error(self.folder):
            self._journal.add("row", number, checksum(self._rewards[branches]))

    def remove(self) -> None:
        """Remove the folder, but nothing of anybody else's in it."""
        remove_work(self.folder, FILES)
