"""Data sets with weights in the shapes that trainers read. Pure: rows in, rows out; `kat/exporting.py` writes them.

TRL reads messages in `prompt`, `chosen`, `rejected` (explicit) or whole conversations (implicit). OpenRLHF knows no
weight of a row, so it gets the rows of one weighted pass, each as often as it is drawn. verl reads prompts with an
`extra_info.index`; `kat.integrations.verl` draws from their `weight`, or it reads a drawn pass as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.density.sampling import draw_pass
from kat.errors import InputError, MismatchError
from kat.pair_weights.storage import PairWeights
from kat.records import Message, Pair, Prefix

FORMATS = ("trl", "openrlhf", "verl", "parquet", "jsonl")
PARTS = ("train", "validation")


@dataclass(frozen=True)
class Weighed:
    """A pair of a part ("train" or "validation") with its distinct id, its weight v (None unless it trains) and the
    density weight w of its opening."""

    pair: Pair
    pair_id: str
    part: str
    v: float | None
    w: float


def weighed_pairs(pairs: Iterable[Pair], table: PairWeights) -> Iterator[Weighed]:
    """The pairs that train or validate, joined with their weights by row and id of their opening.

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
            yield Weighed(pair, table.pair_id[row], part, v, float(table.w[row]))
        row += 1
    if row < len(table):
        raise MismatchError(f"The pairs end after {row:,} rows, and {table.path} has {len(table):,}.")


def assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def explicit_row(one: Weighed) -> dict[str, Any]:
    """TRL's explicit shape: prompt, chosen and rejected apart."""
    prompt, chosen, rejected = one.pair.prefix.messages, assistant(one.pair.chosen), assistant(one.pair.rejected)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | _marks(one)


def implicit_row(one: Weighed) -> dict[str, Any]:
    """TRL's implicit shape: two whole conversations."""
    prompt = one.pair.prefix.messages
    chosen, rejected = [*prompt, *assistant(one.pair.chosen)], [*prompt, *assistant(one.pair.rejected)]
    return {"chosen": chosen, "rejected": rejected} | _marks(one)


def _marks(one: Weighed) -> dict[str, Any]:
    found = {"pair_id": one.pair_id, "opening_id": one.pair.prefix.id}
    return found if one.v is None else found | {"weight": one.v}


def prompt_row(prefix: Prefix, w: float) -> dict[str, Any]:
    """A prompt alone, with the density weight of its opening."""
    return {"prompt": prefix.messages, "opening_id": prefix.id, "weight": w}


def verl_row(prefix: Prefix, w: float, index: int, part: str) -> dict[str, Any]:
    """A prompt as verl's RLHFDataset reads it; rewards come from a model, so the ground truth is empty."""
    return {
        "data_source": "kat",
        "prompt": prefix.messages,
        "ability": "preference",
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": {"index": index, "split": part, "opening_id": prefix.id},
        "weight": w,
    }


def openrlhf_row(prefix: Prefix, probability: float) -> dict[str, Any]:
    """A prompt under OpenRLHF's default `--data.input_key input`."""
    return {"input": prefix.messages, "opening_id": prefix.id, "sampling_probability": probability}


def prompts_of(weighed: Iterable[Weighed], part: str) -> tuple[list[Prefix], np.ndarray]:
    """One prefix for each opening of a part, as `kat run` keeps them, and their density weights [X]."""
    from kat.data.openings import unique_prefixes

    w: dict[str, float] = {}

    def pairs() -> Iterator[Pair]:
        for one in weighed:
            if one.part == part:
                w[one.pair.prefix.id] = one.w
                yield one.pair

    prefixes = unique_prefixes(pairs())
    return prefixes, np.asarray([w[prefix.id] for prefix in prefixes], np.float64)


def drawn_counts(weights: np.ndarray, seed: int) -> np.ndarray:
    """How often each row [N] stands in a weighted pass of N rows: within one of N · weight / Σ weight."""
    if not len(weights):
        raise InputError("There is nothing to draw from: no row trains.")
    return np.bincount(draw_pass(weights, len(weights), seed), minlength=len(weights))
