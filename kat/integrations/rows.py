"""Pairs joined with their weights: the rows that every export is made of.

A trainer that cannot weigh a row reads the rows of one weighted pass instead, each as often as `drawn_counts` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.density.sampling import draw_pass
from kat.errors import InputError, MismatchError
from kat.pair_weights.storage import PairWeights
from kat.records import Message, Pair, Prefix

PARTS = ("train", "validation")


@dataclass(frozen=True)
class WeighedPair:
    """A pair of a part ("train" or "validation") with its distinct id, its weight v (None unless it trains) and the
    density weight w of its opening."""

    pair: Pair
    pair_id: str
    part: str
    v: float | None
    w: float


WeighedPairs = Callable[[], Iterator[WeighedPair]]
"""Starts another pass over the pairs: exports read their source more than once and keep no texts in memory."""


def weighed_pairs(pairs: Iterable[Pair], table: PairWeights) -> Iterator[WeighedPair]:
    """Yield the pairs that train or validate, joined with their weights by row and id of their opening.

    Raises MismatchError if the table was made from other pairs.
    """
    row = 0
    for pair in pairs:
        if row == len(table) or table.row[row] != pair.row or table.opening_id[row] != pair.prefix.id:
            raise MismatchError(
                f"Row {pair.row:,} of the pairs is not row {row:,} of {table.path}: it was made from another file. "
                "Make it again: kat weigh-pairs RUN --overwrite"
            )
        part = table.split[row]
        if part:
            v = float(table.v[row]) if part == "train" else None
            yield WeighedPair(pair, table.pair_id[row], part, v, float(table.w[row]))
        row += 1
    if row < len(table):
        raise MismatchError(f"The pairs end after {row:,} rows, and {table.path} has {len(table):,}.")


def prompts_of(pairs: Iterable[WeighedPair], part: str) -> tuple[list[Prefix], np.ndarray]:
    """Return one prefix for each of the X openings of a part, as `kat run` keeps them, and density weights [X]."""
    from kat.data.openings import unique_prefixes

    w: dict[str, float] = {}

    def pairs_of_part() -> Iterator[Pair]:
        for weighed in pairs:
            if weighed.part == part:
                w[weighed.pair.prefix.id] = weighed.w
                yield weighed.pair

    prefixes = unique_prefixes(pairs_of_part())
    return prefixes, np.asarray([w[prefix.id] for prefix in prefixes], np.float64)


def drawn_counts(weights: np.ndarray, seed: int) -> np.ndarray:
    """Return how often each row [N] stands in a weighted pass of N rows: within one of N · weight / Σ weight.

    Raises InputError if there are no rows.
    """
    if not len(weights):
        raise InputError("There is nothing to draw from: no row trains.")
    return np.bincount(draw_pass(weights, len(weights), seed), minlength=len(weights))


def drawn_order(weights: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows [N] of a weighted pass, shuffled; each stands in it as often as `drawn_counts` says."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(weights)), drawn_counts(weights, seed)))


def assistant(text: str) -> list[Message]:
    """Return a completion as messages."""
    return [{"role": "assistant", "content": text}]


def explicit_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair with its prompt, chosen and rejected messages apart: TRL's explicit format."""
    pair = weighed.pair
    row: dict[str, Any] = {
        "prompt": pair.prefix.messages,
        "chosen": assistant(pair.chosen),
        "rejected": assistant(pair.rejected),
    }
    return row | marks(weighed)


def plain_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair's id, weight and part, without its texts."""
    return {"pair_id": weighed.pair_id, "weight": weighed.v, "split": weighed.part}


def marks(weighed: WeighedPair) -> dict[str, Any]:
    """Return what stands beside a pair's messages: its ids, and its weight if it trains."""
    ids: dict[str, Any] = {"pair_id": weighed.pair_id, "opening_id": weighed.pair.prefix.id}
    return ids if weighed.v is None else ids | {"weight": weighed.v}
