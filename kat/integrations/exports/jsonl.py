"""JSON lines of pair ids and weights, to be joined with the pairs by whoever has them."""

from __future__ import annotations

from pathlib import Path

import orjson

from kat.integrations.exports import DataSet, Export
from kat.integrations.files import write_lines
from kat.integrations.rows import WeighedPairs, plain_row
from kat.pair_weights.storage import PairWeights


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> None:
    """Write id, weight and part of every pair."""
    # Rows come from the join, not from the table, so that weights of other pairs are noticed here too.
    write_lines(folder / "weights.jsonl", (orjson.dumps(plain_row(pair)) + b"\n" for pair in weighed()))


PLUGIN = Export(
    name="jsonl",
    help="JSON lines of pair ids and weights",
    write=write,
    first_file="weights.jsonl",
    data_sets=(DataSet("weights", "id, weight and part of every pair", {"train": "weights.jsonl"}),),
    next_step="join {out}/weights.jsonl with your pairs by pair_id; do not normalise inside a batch",
)
