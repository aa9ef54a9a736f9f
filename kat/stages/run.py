"""Pairs → weights: prefixes, embed and density, one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kat.config import DensityOptions, EmbedOptions, ReadOptions, RunOptions
from kat.inputs import Inputs
from kat.run_folder import DENSITY, EMBEDDINGS, PREFIXES
from kat.stages.contexts import measure_contexts
from kat.stages.density import weigh_openings
from kat.stages.embed import embed_folder
from kat.stages.prefixes import make_prefixes


def run(
    pairs: Inputs,
    out: Path,
    embed: EmbedOptions,
    density: DensityOptions,
    run_options: RunOptions,
    *,
    reading: ReadOptions = ReadOptions(),
) -> None:
    """Write OUT/prefixes_all.jsonl, OUT/embeddings and OUT/density, each skipped where it is already done."""
    make_prefixes(pairs, out / PREFIXES, run_options, reading=reading)
    # Bad rows are those of the pairs: a prefixes file of kat's own has none.
    embed_folder(out / PREFIXES, out / EMBEDDINGS, embed, replace(run_options, max_bad_rows=RunOptions.max_bad_rows))
    weigh_openings(out / EMBEDDINGS, out / DENSITY, density, run_options, out / PREFIXES)
    measure_contexts(pairs, out, embed, reading, run_options)
