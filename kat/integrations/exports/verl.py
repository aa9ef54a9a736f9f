"""verl: prompts with an `extra_info.index` and a `weight` that `kat.integrations.verl` draws by, or a drawn pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kat.integrations.contexts import Contents, Prompt, contents_of, prompts_of
from kat.integrations.exports import DataSet, Export
from kat.integrations.files import BATCH, ParquetRows, json_list, messages_type
from kat.integrations.passes import drawn_order
from kat.integrations.rows import PARTS, WeighedPairs
from kat.integrations.weights import WEIGHT
from kat.pair_weights.storage import PairWeights

_FILES = {part: f"{part}.parquet" for part in PARTS}
_DRAWN = "train.drawn.parquet"


def prompt_row(prompt: Prompt, index: int, part: str, contents: Contents) -> dict[str, Any]:
    """Return a prompt as verl's RLHFDataset reads it; rewards come from a model, so the ground truth is empty."""
    return {
        "data_source": "kat",
        "prompt": prompt.messages,
        "tools": prompt.tools,
        "ability": "preference",
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": {"index": index, "split": part} | prompt.ids(contents),
        WEIGHT: prompt.w,
    }


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write every prompt once, with its weight, and a weighted pass of those that train, without."""
    contents = contents_of(weighed())
    schema = _schema(contents)
    for part, name in _FILES.items():
        w, units = [], []
        with ParquetRows(folder / name, schema) as file:
            for index, prompt in enumerate(prompts_of(weighed(), part, contents)):
                file.add(prompt_row(prompt, index, part, contents))
                w.append(prompt.w)
                units.append(prompt.opening_id)
        if w and part == "train":
            _write_pass(folder, drawn_order(np.asarray(w, np.float64), seed, units))
    return contents


def _write_pass(folder: Path, order: np.ndarray) -> None:
    """Write the rows [N] of a pass from those of the file of prompts; a weight in them would count twice."""
    prompts = pq.read_table(folder / _FILES["train"]).drop_columns([WEIGHT])
    with pq.ParquetWriter(folder / _DRAWN, prompts.schema, compression="zstd") as writer:
        for start in range(0, len(order), BATCH):
            writer.write_table(prompts.take(pa.array(order[start : start + BATCH])))


def _schema(contents: Contents) -> pa.Schema:
    ids = ["opening_id", "context_id"] if contents.several else ["opening_id"]
    extra = [("index", pa.int64()), ("split", pa.string()), *((name, pa.string()) for name in ids)]
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", messages_type(contents.rich)),
            *([("tools", json_list())] if contents.tools else []),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct(extra)),
            (WEIGHT, pa.float64()),
        ]
    )


PLUGIN = Export(
    name="verl",
    help="verl: prompts with weights, and a weighted pass of them",
    write=write,
    first_file="train.parquet",
    data_sets=(
        DataSet("prompts", "every distinct context once, with its part of its opening's weight", _FILES),
        DataSet("drawn", "a weighted pass of those that train, each as often as it is drawn", {"train": _DRAWN}),
    ),
    notes={
        "prefill": "verl ends the turn that a context ends on, and begins another",
        "tools": "verl takes tools from its own configuration and does not read the column",
    },
    next_step="data.train_files={out}/train.drawn.parquet data.shuffle=False; or, up to verl 0.7, "
    "train.parquet with data.sampler.class_path=pkg://kat.integrations.verl data.sampler.class_name=DensitySampler",
)
