"""OpenRLHF, which has no weight of a row: the rows of a weighted pass, each as often as it is drawn, as JSON lines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.integrations.contexts import Contents, Prompt, contents_of, prompts_of
from kat.integrations.exports import DataSet, Export
from kat.integrations.files import write_lines
from kat.integrations.passes import Spool, drawn_order
from kat.integrations.rows import WeighedPairs, explicit_row
from kat.integrations.weights import WEIGHT
from kat.pair_weights.storage import PairWeights

_PROBABILITY = "sampling_probability"


def prompt_row(prompt: Prompt, contents: Contents) -> dict[str, Any]:
    """Return a prompt under OpenRLHF's default `--data.input_key input`, without its probability."""
    tools = {"tools": prompt.tools} if prompt.tools else {}
    return {"input": prompt.messages} | tools | prompt.ids(contents)


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write a shuffled weighted pass of pairs and one of prompts, and what validates as it is.

    Rows of a pass hold no weight, which would count twice.
    """
    contents = contents_of(weighed())
    _write_pairs(weighed, table.v[table.split == "train"], folder, seed)
    for part, counts in contents.contexts.items():
        if counts:
            _write_prompts(weighed, part, contents, folder, seed)
    return contents


def _write_pairs(weighed: WeighedPairs, v: np.ndarray, folder: Path, seed: int) -> None:
    """Write the pairs, of which those that train have weights v [N] in their order."""
    order = drawn_order(v, seed)
    drawn = np.isin(np.arange(len(v)), order)
    with tempfile.TemporaryFile(dir=folder) as file, (folder / "pairs.validation.jsonl").open("wb") as validation:
        spool, row = Spool(file), 0
        for pair in weighed():
            line = _line({name: value for name, value in explicit_row(pair).items() if name != WEIGHT})
            if pair.part != "train":
                validation.write(line)
                continue
            spool.add(line if drawn[row] else b"")
            row += 1
        write_lines(folder / "pairs.train.jsonl", (spool[i] for i in order))


def _write_prompts(weighed: WeighedPairs, part: str, contents: Contents, folder: Path, seed: int) -> None:
    """Write the prompts of a part with their probabilities, and a weighted pass of those that train."""
    w, units = [], []
    for prompt in prompts_of(weighed(), part, contents):
        w.append(prompt.w)
        units.append(prompt.opening_id)
    weights = np.asarray(w, np.float64)
    probabilities = weights / weights.sum()
    name = "prompts.train.all.jsonl" if part == "train" else f"prompts.{part}.jsonl"
    with tempfile.TemporaryFile(dir=folder) as file, (folder / name).open("wb") as every:
        spool = Spool(file)
        for row, prompt in enumerate(prompts_of(weighed(), part, contents)):
            line = prompt_row(prompt, contents)
            every.write(_line(line | {_PROBABILITY: float(probabilities[row])}))
            spool.add(_line(line) if part == "train" else b"")
        if part == "train":
            write_lines(folder / "prompts.train.jsonl", (spool[i] for i in drawn_order(weights, seed, units)))


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row) + b"\n"


PLUGIN = Export(
    name="openrlhf",
    help="OpenRLHF: weighted passes of pairs and prompts",
    write=write,
    first_file="pairs.train.jsonl",
    data_sets=(
        DataSet(
            "pairs",
            "a weighted pass of pairs, each as often as it is drawn; and those that validate",
            {"train": "pairs.train.jsonl", "validation": "pairs.validation.jsonl"},
        ),
        DataSet("prompts", "a weighted pass of contexts", {"train": "prompts.train.jsonl"}),
        DataSet(
            "prompts_all",
            "every distinct context once, with its probability in a pass",
            {"train": "prompts.train.all.jsonl", "validation": "prompts.validation.jsonl"},
        ),
    ),
    notes={
        "prefill": "OpenRLHF ends the turn that a context ends on, and begins another",
        "tools": "OpenRLHF does not give the column to the chat template",
    },
    next_step="python -m openrlhf.cli.train_rm --data.dataset {out}/pairs.train.jsonl --data.prompt_key "
    "prompt --data.chosen_key chosen --data.rejected_key rejected --data.apply_chat_template",
)
