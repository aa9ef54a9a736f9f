"""A weighted pass of pairs as JSON lines, for trainers that have no weight of a row: each pair as often as it is drawn,
and those that validate once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.errors import InputError
from kat.integrations.files import write_lines
from kat.integrations.passes import Spool, drawn_order
from kat.integrations.rows import WeighedPair, WeighedPairs, marks
from kat.integrations.weights import WEIGHT

PAIR_WEIGHT = "pair_weight"
"""What a pair was drawn by. Not `weight`, by which kat's own trainers would weigh the rows of a pass a second time."""
PairRow = Callable[[WeighedPair], dict[str, Any] | None]
"""Makes a pair's row, or None of a pair that the trainer's format cannot hold."""


def line(row: dict[str, Any]) -> bytes:
    """Return a row as a line of JSON."""
    return orjson.dumps(row) + b"\n"


def marks_beside(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair's ids, and as `pair_weight` what it is drawn by if it trains."""
    beside = marks(weighed)
    return {PAIR_WEIGHT if name == WEIGHT else name: value for name, value in beside.items()}


def write_drawn_pairs(weighed: WeighedPairs, row: PairRow, folder: Path, seed: int, name: str = "pairs") -> int:
    """Write NAME.train.jsonl, a shuffled weighted pass, and NAME.validation.jsonl; return how many pairs neither has.

    A pass has as many rows as there are pairs that train and have a row: each stands ⌊n·v/Σv⌋ or ⌈n·v/Σv⌉ times.
    Raises InputError if none has.
    """
    v: list[float] = []
    left_out = 0
    with (
        tempfile.TemporaryFile(dir=folder) as file,
        (folder / f"{name}.validation.jsonl").open("wb") as validation,
    ):
        spool = Spool(file)
        for pair in weighed():
            if (values := row(pair)) is None:
                left_out += 1
            elif pair.v is None:
                validation.write(line(values))
            else:
                spool.add(line(values))
                v.append(pair.v)
        if left_out and not v:
            raise InputError(
                f"None of the pairs that train fits the trainer's format; {left_out:,} are left out. "
                "TRL takes every conversation: kat export-weights RUN --to trl"
            )
        write_lines(folder / f"{name}.train.jsonl", (spool[i] for i in drawn_order(np.asarray(v), seed)))
    return left_out


def has_rows(path: Path) -> bool:
    """Tell whether a file of rows is there and holds any."""
    return path.is_file() and path.stat().st_size > 0
