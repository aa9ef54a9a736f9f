"""Exports: one file a trainer, with its columns, rows and files; `PLUGIN` in it holds all facts of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kat.integrations.rows import WeighedPairs
from kat.pair_weights.storage import PairWeights


@dataclass(frozen=True)
class Export:
    """What `kat export-weights --to NAME` does.

    `write(weighed, table, folder, seed)` writes the files of a folder that is there; `weighed()` starts a pass over
    the pairs with their weights, and `seed` is that of passes that are drawn. `first_file` is a file that is always
    there, `next_step` the text that is printed at the end, with "{out}" for the folder. `needs` names the extra that
    the export itself takes, if any.
    """

    name: str
    help: str
    write: Callable[[WeighedPairs, PairWeights, Path, int], None]
    first_file: str
    next_step: str
    needs: str | None = None
