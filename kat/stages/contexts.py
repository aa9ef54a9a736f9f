"""Openings with several contexts → how far these lie apart: a part of `kat run`, which says when the unit is wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import orjson

from kat.artifacts import check_vouched, json_bytes
from kat.config import EmbedOptions, ReadOptions, RunOptions, recorded
from kat.data.openings import several_contexts
from kat.data.pairs import PairReader
from kat.density.contexts import context_spread
from kat.digests import read_file
from kat.embedding.boilerplate import Boilerplate
from kat.embedding.storage import load_embeddings
from kat.errors import InputError, translated
from kat.inputs import Inputs, input_paths
from kat.neighbors.storage import load_neighbors
from kat.reports.console.contexts import context_lines, context_summary
from kat.run_folder import CONTEXTS, EMBEDDINGS, PREFIXES, VECTORS, RunFolder, stats_path
from kat.stages.stage import stage

OPENINGS, MOST_CONTEXTS = 60, 4
"""Openings that are looked at, and contexts of each: 240 texts, a second or two with a small encoder."""


def measure_contexts(
    pairs: Inputs, folder: Path, embed: EmbedOptions, reading: ReadOptions, run_options: RunOptions
) -> None:
    """Write RUN/contexts.json if the run's unit is the opening, and openings have several contexts."""
    run = RunFolder(folder)
    check_vouched(stats_path(folder / PREFIXES), by=folder / PREFIXES)
    several = _several(stats_path(folder / PREFIXES))
    if reading.density_unit != "opening" or embed.text != "conversation" or not several:
        return
    with stage(
        "contexts",
        folder / CONTEXTS,
        inputs={"pairs": input_paths(pairs), "embeddings": folder / EMBEDDINGS / VECTORS},
        options=recorded(embed) | {"model": embed.source},
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        from kat.embedding.encoder import cached_encoder

        groups = several_contexts(partial(PairReader, pairs, "all", options=reading), OPENINGS, MOST_CONTEXTS)
        left_out = Boilerplate.from_dict((run.embeddings_manifest["options"]).get("boilerplate") or {})
        texts = [left_out.without(prefix) for group in groups for prefix in group]
        vectors = cached_encoder(embed, run_options.device).encode(texts).vectors
        neighbors = load_neighbors(run.neighbors, load_embeddings(run.density)[0])
        nearest = neighbors.distinct_distances[:, 0] if neighbors.distinct_distances.shape[1] else np.zeros(1)
        spread = context_spread(vectors, np.repeat(np.arange(len(groups)), [len(group) for group in groups]), nearest)
        job.file.write(json_bytes(spread.as_dict() | {"openings_with_several": several}))
        job.say(context_summary(several), context_lines(spread))


def _several(path: Path) -> int:
    """Return how many openings have several contexts, as the counts beside the prefixes say. Raises InputError."""
    with translated(InputError, f"{path} is damaged", "Make it again: kat run PAIRS --out RUN --overwrite"):
        several = orjson.loads(read_file(path))["openings_with_several_contexts"]
        if not isinstance(several, int):
            raise ValueError(f"it counts {several!r:.40} openings with several contexts")
    return several
