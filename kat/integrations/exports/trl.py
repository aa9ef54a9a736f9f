"""TRL: messages in `prompt`, `chosen`, `rejected` (explicit), conversations in full (implicit), and prompts alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from kat.integrations.exports import Export
from kat.integrations.files import MESSAGES, ParquetRows, write_parquet
from kat.integrations.rows import PARTS, WeighedPair, WeighedPairs, assistant, explicit_row, marks, prompts_of
from kat.pair_weights.storage import PairWeights
from kat.records import Prefix

_SIDES = [("chosen", MESSAGES), ("rejected", MESSAGES)]
_PROMPTS = pa.schema([("prompt", MESSAGES), ("opening_id", pa.string()), ("weight", pa.float64())])


def implicit_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair as two conversations, each with its prompt: TRL's implicit format."""
    pair = weighed.pair
    chosen, rejected = ([*pair.prefix.messages, *assistant(text)] for text in (pair.chosen, pair.rejected))
    return {"chosen": chosen, "rejected": rejected} | marks(weighed)


def prompt_row(prefix: Prefix, w: float) -> dict[str, Any]:
    """Return a prompt alone, with the density weight of its opening."""
    return {"prompt": prefix.messages, "opening_id": prefix.id, "weight": w}


_FORMATS = {
    "explicit": (explicit_row, [("prompt", MESSAGES), *_SIDES]),
    "implicit": (implicit_row, _SIDES),
}
"""Of pairs: the function that makes a row, and the columns of its messages."""


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> None:
    """Write explicit, implicit and prompt-only data sets, of the pairs that train and of those that validate."""
    with ExitStack() as stack:
        writers = {
            (name, part): stack.enter_context(ParquetRows(folder / f"{name}.{part}.parquet", _schema(columns, part)))
            for name, (_, columns) in _FORMATS.items()
            for part in PARTS
        }
        for pair in weighed():
            for name, (row, _) in _FORMATS.items():
                writers[name, pair.part].add(row(pair))
    for part in PARTS:
        prefixes, w = prompts_of(weighed(), part)
        rows = (prompt_row(prefix, weight) for prefix, weight in zip(prefixes, w.tolist(), strict=True))
        write_parquet(folder / f"prompts.{part}.parquet", rows, _PROMPTS)


def _schema(columns: list[tuple[str, pa.DataType]], part: str) -> pa.Schema:
    """Return the columns of a part; only pairs that train have a weight."""
    weight = [("weight", pa.float64())] if part == "train" else []
    return pa.schema([*columns, ("pair_id", pa.string()), ("opening_id", pa.string()), *weight])


PLUGIN = Export(
    name="trl",
    help="TRL: explicit and implicit preferences, and prompts",
    write=write,
    first_file="explicit.train.parquet",
    next_step='datasets.load_dataset("parquet", data_files="{out}/explicit.train.parquet") and '
    "kat.integrations.trl.WeightedRewardTrainer",
)
