"""verl: prompts with an `extra_info.index` and a `weight` that `kat.integrations.verl` draws by, or a drawn pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from kat.integrations.exports import Export
from kat.integrations.files import MESSAGES, write_parquet
from kat.integrations.rows import PARTS, WeighedPairs, drawn_order, prompts_of
from kat.pair_weights.storage import PairWeights
from kat.records import Prefix

_EXTRA = pa.struct([("index", pa.int64()), ("split", pa.string()), ("opening_id", pa.string())])
_COLUMNS = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", _EXTRA),
        ("weight", pa.float64()),
    ]
)


def prompt_row(prefix: Prefix, w: float, index: int, part: str) -> dict[str, Any]:
    """Return a prompt as verl's RLHFDataset reads it; rewards come from a model, so the ground truth is empty."""
    return {
        "data_source": "kat",
        "prompt": prefix.messages,
        "ability": "preference",
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": {"index": index, "split": part, "opening_id": prefix.id},
        "weight": w,
    }


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> None:
    """Write every prompt once, with its weight, and a weighted pass of those that train."""
    for part in PARTS:
        prefixes, w = prompts_of(weighed(), part)
        prompts = zip(prefixes, w.tolist(), strict=True)
        rows = [prompt_row(prefix, weight, index, part) for index, (prefix, weight) in enumerate(prompts)]
        write_parquet(folder / f"{part}.parquet", rows, _COLUMNS)
        if rows and part == "train":
            write_parquet(folder / "train.drawn.parquet", (rows[i] for i in drawn_order(w, seed)), _COLUMNS)


PLUGIN = Export(
    name="verl",
    help="verl: prompts with weights, and a weighted pass of them",
    write=write,
    first_file="train.parquet",
    next_step="data.train_files={out}/train.drawn.parquet data.shuffle=False; or, up to verl 0.7, "
    "train.parquet with data.sampler.class_path=pkg://kat.integrations.verl data.sampler.class_name=DensitySampler",
)
