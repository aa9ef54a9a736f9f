"""TRL: messages in `prompt`, `chosen`, `rejected` (explicit), conversations in full (implicit), and prompts alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from kat.integrations.contexts import Contents, Prompt, contents_of, prompts_of
from kat.integrations.exports import DataSet, Export
from kat.integrations.files import ParquetRows, json_list, messages_type, write_parquet
from kat.integrations.rows import PARTS, WeighedPair, WeighedPairs, context_of, explicit_row, extras, marks, sides_of
from kat.pair_weights.storage import PairWeights

Columns = list[tuple[str, pa.DataType]]


def implicit_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair as two conversations, each with its context: TRL's implicit format."""
    context = context_of(weighed.pair)
    sides = {name: [*context, *messages] for name, messages in sides_of(weighed.pair).items()}
    return sides | extras(weighed.pair) | marks(weighed)


def prompt_row(prompt: Prompt, contents: Contents) -> dict[str, Any]:
    """Return a context alone, with its part of the density weight of its opening."""
    return {"prompt": prompt.messages, "tools": prompt.tools, "weight": prompt.w} | prompt.ids(contents)


_FORMATS = {
    "explicit": (explicit_row, ["prompt", "chosen", "rejected"]),
    "implicit": (implicit_row, ["chosen", "rejected"]),
}
"""Of pairs: the function that makes a row, and the columns of its messages."""


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write explicit, implicit and prompt-only data sets, of the pairs that train and of those that validate."""
    contents = contents_of(weighed())
    with ExitStack() as stack:
        writers = {
            (name, part): stack.enter_context(
                ParquetRows(folder / f"{name}.{part}.parquet", _pair_schema(columns, part, contents))
            )
            for name, (_, columns) in _FORMATS.items()
            for part in PARTS
        }
        for pair in weighed():
            for name, (row, _) in _FORMATS.items():
                writers[name, pair.part].add(row(pair))
    for part in PARTS:
        rows = (prompt_row(prompt, contents) for prompt in prompts_of(weighed(), part, contents))
        write_parquet(folder / f"prompts.{part}.parquet", rows, _prompt_schema(contents))
    return contents


def _pair_schema(messages: list[str], part: str, contents: Contents) -> pa.Schema:
    """Return the columns of a part; only pairs that train have a weight."""
    columns: Columns = [(name, messages_type(contents.rich)) for name in messages]
    columns += _tools(contents)
    columns += [("margin", pa.float64())] if contents.margin else []
    columns += [("pair_id", pa.string()), ("opening_id", pa.string())]
    return pa.schema([*columns, ("weight", pa.float64())] if part == "train" else columns)


def _prompt_schema(contents: Contents) -> pa.Schema:
    ids = ["opening_id", "context_id"] if contents.several else ["opening_id"]
    columns: Columns = [("prompt", messages_type(contents.rich)), *_tools(contents)]
    return pa.schema([*columns, *((name, pa.string()) for name in ids), ("weight", pa.float64())])


def _tools(contents: Contents) -> Columns:
    return [("tools", json_list())] if contents.tools else []


def _of_parts(name: str) -> dict[str, str]:
    return {part: f"{name}.{part}.parquet" for part in PARTS}


PLUGIN = Export(
    name="trl",
    help="TRL: explicit and implicit preferences, and prompts",
    write=write,
    first_file="explicit.train.parquet",
    data_sets=(
        DataSet(
            "explicit",
            "pairs: prompt, chosen and rejected messages; those that train have a weight",
            _of_parts("explicit"),
        ),
        DataSet("implicit", "the same pairs as two whole conversations", _of_parts("implicit")),
        DataSet("prompts", "every distinct context once, with its part of its opening's weight", _of_parts("prompts")),
    ),
    notes={
        "prefill": "TRL ends the turn that a context ends on, and begins another: its data code has no continuation "
        "of it for pairs, and GRPOTrainer none for prompts",
        "tools": "GRPOTrainer takes tools= when it is made and does not read the column of prompts",
    },
    next_step='datasets.load_dataset("parquet", data_files="{out}/explicit.train.parquet") and '
    "kat.integrations.trl.WeightedRewardTrainer or WeightedDPOTrainer",
)
