"""OpenRLHF, which has no weight of a row: the rows of a weighted pass, each as often as it is drawn, as JSON lines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kat.integrations.contexts import Contents, Prompt, contents_of, prompts_of
from kat.integrations.drawn_pairs import line, write_drawn_pairs
from kat.integrations.exports import DataSet, Export
from kat.integrations.files import write_lines
from kat.integrations.passes import Spool, drawn_order
from kat.integrations.rows import WeighedPair, WeighedPairs, explicit_row
from kat.integrations.weights import WEIGHT
from kat.pair_weights.storage import PairWeights

_PROBABILITY = "sampling_probability"


def pair_row(weighed: WeighedPair) -> dict[str, Any]:
    """Return a pair without its weight, which would count twice."""
    return {name: value for name, value in explicit_row(weighed).items() if name != WEIGHT}


def prompt_row(prompt: Prompt, contents: Contents) -> dict[str, Any]:
    """Return a prompt under OpenRLHF's default `--data.input_key input`, without its probability."""
    tools = {"tools": prompt.tools} if prompt.tools else {}
    return {"input": prompt.messages} | tools | prompt.ids(contents)


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write a shuffled weighted pass of pairs and one of prompts, and what validates as it is."""
    contents = contents_of(weighed())
    write_drawn_pairs(weighed, pair_row, folder, seed)
    for part, counts in contents.contexts.items():
        if counts:
            _write_prompts(weighed, part, contents, folder, seed)
    return contents


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
            values = prompt_row(prompt, contents)
            every.write(line(values | {_PROBABILITY: float(probabilities[row])}))
            spool.add(line(values) if part == "train" else b"")
        if part == "train":
            write_lines(folder / "prompts.train.jsonl", (spool[i] for i in drawn_order(weights, seed, units)))


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
