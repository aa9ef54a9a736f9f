"""Pairs joined with their weights: the rows that every export is made of.

The contexts that they share are in `kat.integrations.contexts`, the passes for trainers that cannot weigh a row in
`kat.integrations.passes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kat.errors import MismatchError
from kat.pair_weights.storage import PairWeights
from kat.records import Message, Pair

PARTS = ("train", "validation")


@dataclass(frozen=True)
class WeighedPair:
    """A pair of a part ("train" or "validation") with its distinct id, its weight v (None unless it trains) and the
    weight w that its opening is drawn by."""

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
    row, draws = 0, table.draw_weights()
    texts = zip(*(table.text(name) for name in ("pair_id", "opening_id", "split")), strict=True)
    for pair in pairs:
        pair_id, opening_id, part = next(texts, ("", "", ""))
        if row == len(table) or table.row[row] != pair.row or opening_id != pair.prefix.id:
            raise MismatchError(
                f"Row {pair.row:,} of the pairs is not row {row:,} of {table.path}: it was made from another file. "
                "Make it again: kat weigh-pairs RUN --overwrite"
            )
        if part:
            v = float(table.v[row]) if part == "train" else None
            yield WeighedPair(pair, pair_id, part, v, draws[pair.prefix.id])
        row += 1
    if row < len(table):
        raise MismatchError(f"The pairs end after {row:,} rows, and {table.path} has {len(table):,}.")


def assistant(text: str) -> list[Message]:
    """Return a completion as messages."""
    return [{"role": "assistant", "content": text}]


def explicit_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair with its context, chosen and rejected messages apart: TRL's explicit format."""
    pair = weighed.pair
    return {"prompt": context_of(pair)} | sides_of(pair) | extras(pair) | marks(weighed)


def context_of(pair: Pair) -> list[Message]:
    """Return all messages before the completions, as the source has them; the prefix of a pair that holds no others."""
    return pair.context or pair.prefix.messages


def sides_of(pair: Pair) -> dict[str, list[Message]]:
    """Return both completions as messages."""
    return {
        "chosen": pair.chosen_messages or assistant(pair.chosen),
        "rejected": pair.rejected_messages or assistant(pair.rejected),
    }


def extras(pair: Pair) -> dict[str, Any]:
    """Return what a pair has besides messages, under the names of its columns: tools and margin."""
    columns = {"tools": pair.tools or None, "margin": pair.margin}
    return {name: value for name, value in columns.items() if value is not None}


def plain_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair's id, weight and part, without its texts."""
    return {"pair_id": weighed.pair_id, "weight": weighed.v, "split": weighed.part}


def marks(weighed: WeighedPair) -> dict[str, Any]:
    """Return what stands beside a pair's messages: its ids, and its weight if it trains."""
    ids: dict[str, Any] = {"pair_id": weighed.pair_id, "opening_id": weighed.pair.prefix.id}
    return ids if weighed.v is None else ids | {"weight": weighed.v}
