"""A parquet table of pair ids and weights, to be joined with the pairs by whoever has them."""

from __future__ import annotations

from pathlib import Path

from kat.integrations.exports import DataSet, Export
from kat.integrations.files import PLAIN, write_parquet
from kat.integrations.rows import WeighedPairs, plain_row
from kat.pair_weights.storage import PairWeights


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> None:
    """Write id, weight and part of every pair."""
    # Rows come from the join, not from the table, so that weights of other pairs are noticed here too.
    write_parquet(folder / "weights.parquet", map(plain_row, weighed()), PLAIN)


PLUGIN = Export(
    name="parquet",
    help="a parquet table of pair ids and weights",
    write=write,
    first_file="weights.parquet",
    data_sets=(DataSet("weights", "id, weight and part of every pair", {"train": "weights.parquet"}),),
    next_step="join {out}/weights.parquet with your pairs by pair_id; do not normalise inside a batch",
)
