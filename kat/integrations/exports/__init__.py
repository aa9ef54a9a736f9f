"""Exports: one file a trainer, with its columns, rows and files; `PLUGIN` in it holds all facts of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kat.integrations.contexts import Contents
from kat.integrations.rows import WeighedPairs
from kat.pair_weights.storage import PairWeights


@dataclass(frozen=True)
class DataSet:
    """One data set of an export's folder: its name, a line about it, and the file of each split."""

    name: str
    help: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Export:
    """What `kat export-weights --to NAME` does.

    `write(weighed, table, folder, seed)` writes the files of a folder that is there; `weighed()` starts a pass over
    the pairs with their weights, and `seed` is that of passes that are drawn. It returns what it met in them, or None
    if it writes no texts. `first_file` is a file that is always there, `next_step` the text that is printed at the end,
    with "{out}" for the folder. `data_sets` are what the folder's card lists, the default first; a folder without any
    has no card. `notes` say what the trainer itself does not do with what its files carry, by the counts of `Contents`
    ("tools", "margin", "prefill", "rich"): they are printed where it occurs. `limits` say what the format of a data set
    cannot hold, by its name: they are printed with the number of pairs that it leaves out. `needs` names the extra that
    the export itself takes, if any.
    """

    name: str
    help: str
    write: Callable[[WeighedPairs, PairWeights, Path, int], Contents | None]
    first_file: str
    next_step: str
    data_sets: tuple[DataSet, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None
