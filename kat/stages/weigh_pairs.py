"""The stage after the tour: pairs and the weights of their openings → `pair_weights.parquet`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat import artifacts
from kat.artifacts import is_done, load_array, manifest, manifest_path, read_manifest, sealed, sha256_file
from kat.config import DensityOptions, PairOptions, RunOptions
from kat.errors import InputError
from kat.pair_weights.table import OpeningWeights, pair_table
from kat.stages.stage import (
    check_output,
    input_hash,
    rejected_path,
    relative,
    said,
    said_rejected,
    skipped,
    with_progress,
)

NAME = "pair_weights.parquet"


def weigh_pairs(run: Path, out: Path | None, pairs: Path | None, options: PairOptions, how: RunOptions) -> Path:
    """A run's folder → OUT, OUT's stats.json, and the manifest: one row a pair, in the source's order.

    `out` is RUN/pair_weights.parquet by default, with the control's name in it if there is one. `pairs` is the file
    that the run was made from unless another is given. Returns `out`.
    """
    from kat.data.pair_columns import collect_judged
    from kat.data.pairs import PairReader
    from kat.pair_weights.storage import write_pair_weights
    from kat.reports.console.weigh_pairs import pair_weight_lines

    density = density_folder(run)
    allowed = how.max_bad_rows
    if pairs is None:
        pairs, tolerated = source_of(run)
        allowed = allowed or tolerated  # the run met them, and was allowed to
    out = out or run / (NAME if options.control is None else f"pair_weights.{options.control}.parquet")
    stats_path = out.with_suffix(".stats.json")
    for made, suffix in ((out, ".parquet"), (stats_path, ""), (rejected_path(out), "")):
        check_output(made, pairs, *density.iterdir(), suffix=suffix)
    inputs = {"pairs": input_hash(pairs), "weights": sha256_file(density / "density_weights.npy")}
    inputs["density"] = sha256_file(density / "log_density.npy")
    wanted = manifest("pair-weights", inputs, vars(options) | {"max_bad_rows": allowed})
    if is_done(out, wanted, overwrite=how.overwrite):
        skipped("pairs", out)
        return out
    began = time.monotonic()
    with artifacts.whole_files(rejected_path(out), stats_path, out, manifest_path(out)) as (bad, beside, file, record):
        reader = PairReader(pairs, allowed, bad.write)
        judged = collect_judged(with_progress(reader, "pairs"))
        opened, search = read_run(density)
        table, facts = pair_table(judged, opened, options, search, how.device)
        facts["bad_rows"] = reader.stats.bad
        write_pair_weights(table, file, orjson.dumps(facts).decode())
        beside.write(artifacts.json_bytes(facts))
        files = {out.name: file, stats_path.name: beside}
        record.write(sealed(wanted, files, pairs_path=relative(pairs, out.parent)))
    said_rejected(out, reader.stats.bad)
    said("pairs", f"{len(table):,} pairs, {facts['weights']['pairs']:,} of them weighed", out, began)
    print("\n".join(pair_weight_lines(facts, _texts(pairs, facts))))
    return out


def density_folder(run: Path) -> Path:
    """The weights of a run: RUN/density, or the folder itself if it is one of `kat density`. Raises InputError."""
    for folder in (run / "density", run):
        if (read_manifest(folder) or {}).get("stage") == "density":
            return folder
    raise InputError(f"{run} holds no weights. Make them with: kat run PAIRS --out {run}")


def source_of(run: Path) -> tuple[Path, int | str]:
    """The pairs that a run was made from, unchanged since, and how many bad rows it was allowed. Raises InputError."""
    found = read_manifest(run / "prefixes_all.jsonl") or {}
    where = found.get("pairs_path")
    if not where:
        raise InputError(f"{run} does not say which pairs it was made from; name them with --pairs_path.")
    path = run / where
    if not path.is_file():
        raise InputError(f"{run} was made from {path}, which is not there; name the pairs with --pairs_path.")
    if input_hash(path) != found["inputs"]["pairs"]:
        raise InputError(f"{path} changed since {run} was made. Run again: kat run {path} --out {run} --overwrite")
    return path, found["options"]["max_bad_rows"]


def read_run(density: Path) -> tuple[OpeningWeights, DensityOptions]:
    """What a folder of weights knows of its openings, and the options that it was made with."""
    from kat.density.estimators import estimate_density
    from kat.density.storage import check_weights
    from kat.embedding.storage import load_embeddings
    from kat.neighbors.storage import load_neighbors

    options = DensityOptions(**read_manifest(density)["options"])
    embeddings, _ = load_embeddings(density)
    w = np.asarray(load_array(density / "density_weights.npy"))
    check_weights(w, list(embeddings.ids), density / "density_weights.npy")
    neighbors = load_neighbors(density / "neighbors", embeddings)
    found = estimate_density(neighbors, options.k, options.estimator)
    return OpeningWeights(embeddings, found, w), options


def _texts(pairs: Path, facts: dict[str, Any]) -> dict[str, str]:
    """The openings of the heaviest pairs."""
    from itertools import islice

    from kat.data.pairs import PairReader
    from kat.reports.console.weigh_pairs import SHOWN

    wanted = {one["row"] for one in facts["heaviest"][:SHOWN]}
    found = (pair for pair in PairReader(pairs, "all") if pair.row in wanted)
    return {pair.prefix.id: pair.prefix.opening for pair in islice(found, len(wanted))}
