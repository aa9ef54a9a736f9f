"""OpenRLHF, which has no weight of a row: the rows of a weighted pass, each as often as it is drawn, as JSON lines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from kat.integrations.exports import Export
from kat.integrations.files import write_lines
from kat.integrations.rows import PARTS, WeighedPairs, drawn_order, explicit_row, prompts_of
from kat.pair_weights.storage import PairWeights
from kat.records import Prefix


def prompt_row(prefix: Prefix, probability: float) -> dict[str, Any]:
    """Return a prompt under OpenRLHF's default `--data.input_key input`."""
    return {"input": prefix.messages, "opening_id": prefix.id, "sampling_probability": probability}


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> None:
    """Write a shuffled weighted pass of pairs and one of prompts, and what validates as it is."""
    _write_pairs(weighed, table.v[table.split == "train"], folder, seed)
    for part in PARTS:
        _write_prompts(weighed, part, folder, seed)


def _write_pairs(weighed: WeighedPairs, v: np.ndarray, folder: Path, seed: int) -> None:
    """Write the pairs, of which those that train have weights v [N] in their order."""
    order = drawn_order(v, seed)
    drawn = np.isin(np.arange(len(v)), order)
    with tempfile.TemporaryFile(dir=folder) as spool, (folder / "pairs.validation.jsonl").open("wb") as validation:
        # Where each training pair's line lies in the spool: a pass repeats lines out of order, and texts stay on disk.
        starts, lengths = np.zeros((2, len(v)), np.int64)
        row = 0
        for pair in weighed():
            line = _line(explicit_row(pair))
            if pair.part != "train":
                validation.write(line)
                continue
            if drawn[row]:
                starts[row], lengths[row] = spool.tell(), len(line)
                spool.write(line)
            row += 1
        write_lines(folder / "pairs.train.jsonl", (_read(spool, starts[i], lengths[i]) for i in order))


def _write_prompts(weighed: WeighedPairs, part: str, folder: Path, seed: int) -> None:
    """Write the prompts of a part with their probabilities, and a weighted pass of those that train."""
    prefixes, w = prompts_of(weighed(), part)
    if not prefixes:
        return
    probabilities = (w / w.sum()).tolist()
    lines = [_line(prompt_row(prefix, p)) for prefix, p in zip(prefixes, probabilities, strict=True)]
    if part == "train":
        write_lines(folder / "prompts.train.jsonl", (lines[i] for i in drawn_order(w, seed)))
        write_lines(folder / "prompts.train.all.jsonl", lines)
    else:
        write_lines(folder / f"prompts.{part}.jsonl", lines)


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row) + b"\n"


def _read(file: IO[bytes], start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


PLUGIN = Export(
    name="openrlhf",
    help="OpenRLHF: weighted passes of pairs and prompts",
    write=write,
    first_file="pairs.train.jsonl",
    next_step="python -m openrlhf.cli.train_rm --data.dataset {out}/pairs.train.jsonl --data.prompt_key "
    "prompt --data.chosen_key chosen --data.rejected_key rejected --data.apply_chat_template",
)
