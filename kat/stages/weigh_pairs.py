"""Pairs and the weights of their openings → one weight a pair, for any trainer, and a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.artifacts import check_vouched, first_damage, is_kept, json_bytes
from kat.config import DensityOptions, ReadOptions, RunOptions, recorded
from kat.data.columns import reading_flags, reading_of, recorded_reading
from kat.data.headings import Heading, headings
from kat.data.pair_columns import collect_columns
from kat.data.pairs import PairReader
from kat.digests import read_file, sha256_file
from kat.errors import InputError, MismatchError, OptionError
from kat.inputs import Inputs, input_hash, input_paths, input_text
from kat.pair_config import PairOptions, column_of
from kat.pair_weights.duplicates import Sketches
from kat.pair_weights.storage import check_pair_weights, read_pair_weights, write_pair_weights
from kat.pair_weights.table import OpeningWeights, pair_table
from kat.pair_weights.weighting import CLUSTER, label_columns
from kat.records import Pair
from kat.reports.console.weigh_pairs import SHOWN, pair_weight_lines, pair_weight_summary
from kat.run_folder import LOG_DENSITY, METADATA, WEIGHTS, RunFolder, relatives, stats_path, weigh_again
from kat.stages.density import density_options
from kat.stages.stage import stage, with_progress


def weigh_pairs(
    folder: Path,
    out: Path | None,
    pairs: Inputs | None,
    options: PairOptions,
    run_options: RunOptions,
    *,
    reading: ReadOptions = ReadOptions(),
) -> Path:
    """Write OUT, a row a pair in the source's order, and OUT's stats.json; return OUT.

    `out` is RUN/pair_weights.parquet by default, with the control's name in it if there is one. `pairs` is what the
    run was made from unless others are given, read as the run read it but for what `reading` sets.
    Raises InputError if that changed since, OptionError if `reading` names a unit that the weights are not of.
    """
    run, reading = RunFolder(folder), reading.within(run_options)
    allowed: int | str = run_options.max_bad_rows
    density = run.density
    if reading.unit not in (None, run.unit):
        raise OptionError(
            f"unit is {reading.unit}, and the weights of {run.path} are of {run.unit}s. "
            f"Leave --unit out, or make others with: kat run PAIRS --out OTHER --unit {reading.unit}"
        )
    if pairs is None:
        pairs, manifest = unchanged_pairs(run)
        allowed = allowed or manifest["options"].get("max_bad_rows", 0)  # the run met them, and was allowed to
        reading = _inherited(manifest, reading)
    elif (own := run.prefixes_manifest) and own.get("inputs", {}).get("pairs") == input_hash(pairs):
        reading = _inherited(own, reading)  # the run's own file, named once more
    reading = replace(reading, unit=run.unit)  # ids are the run's, whatever file they are looked for in
    out = out or run.pair_weights(options.control)
    with stage(
        "weigh-pairs",
        out,
        inputs={"pairs": input_paths(pairs), "weights": density / WEIGHTS, "density": density / LOG_DENSITY},
        options=_recorded(options) | {"max_bad_rows": allowed} | recorded_reading(reading),
        beside={"stats": stats_path},
        suffix=".parquet",
        reads=density.iterdir(),
        apart=run.read_apart,
        rejects=True,
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return out
        reader = PairReader(pairs, allowed, job.rejected.write, reading, labels=label_columns(options))
        texts = Sketches()
        read = with_progress(reader, "pairs")
        columns = collect_columns(texts.watch(read) if options.group_cosine is None else read)
        opening_weights, search = read_weights(run)
        table, facts = pair_table(columns, opening_weights, texts, options, search, device=run_options.device)
        facts["bad_rows"] = job.bad_rows = reader.stats.bad
        facts["warnings"] += _temperature_warnings(run, search)
        write_pair_weights(table, job.file, orjson.dumps(facts).decode())
        job.beside("stats").write(json_bytes(facts))
        job.facts["pairs_path"] = relatives(pairs, out.parent)
        heaviest = _headings(
            PairReader(pairs, "all", options=reading), {one["row"] for one in facts["heaviest"][:SHOWN]}
        )
        job.say(pair_weight_summary(facts), pair_weight_lines(facts, heaviest, run.words))
    return out


def _recorded(options: PairOptions) -> dict[str, Any]:
    """What a manifest holds of the options: those that came later only where they say something else than weights of
    density alone, so that files of before are still what the same options ask for."""
    before = {"blend": 1.0, "smooth": None, "within": None, "groups": None, "task": None}
    told = {name: column_of(value) for name, value in recorded(options).items()}
    told = {name: value for name, value in told.items() if name not in before or value != before[name]}
    if CLUSTER not in (told.get("smooth"), told.get("within")):
        del told["clusters"]
    if options.control != "permuted":
        del told["control_seed"]
    return told


def read_weights(run: RunFolder) -> tuple[OpeningWeights, DensityOptions]:
    """Read what a run knows of its openings, and the options that their density was made with."""
    from kat.density.estimators import estimate_density
    from kat.density.storage import check_weights
    from kat.embedding.storage import load_embeddings
    from kat.neighbors.storage import load_neighbors

    options = density_options(run)
    embeddings, _ = load_embeddings(run.density)
    weights = np.asarray(run.load(WEIGHTS))
    check_weights(weights, list(embeddings.ids), run.density / WEIGHTS)
    density = estimate_density(load_neighbors(run.neighbors, embeddings), options.k, options.estimator)
    return OpeningWeights(embeddings, density, weights), options


def _temperature_warnings(run: RunFolder, search: DensityOptions) -> list[str]:
    """What to say where the temperature of the weights ended at its limit, before the floor that was asked for."""
    if not is_kept(run.density / METADATA):
        return []  # the origin's own weights come without it
    try:
        check_vouched(run.density / METADATA)
        metadata = orjson.loads(read_file(run.density / METADATA))
        share = float(metadata.get("effective_sample_share", 0.0))
    except MismatchError:
        raise
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    if metadata.get("temperature_bound") != "max_temperature" or not share > search.ess * 1.001:
        return []
    return [
        f"the density weights ended at --max_temperature {search.max_temperature:g} with an effective sample size of "
        f"{share:.0%} of the {run.words.several}, above the floor of {search.ess:.0%}: they are flatter "
        f"than --ess asks for. For more: kat run … --max_temperature {2 * search.max_temperature:g}"
    ]


def _inherited(manifest: dict[str, Any], reading: ReadOptions) -> ReadOptions:
    """How the run read its pairs, but for what is set now."""
    return ReadOptions(**recorded_reading(reading_of(manifest)) | recorded_reading(reading))


def unchanged_pairs(run: RunFolder) -> tuple[Inputs, dict[str, Any]]:
    """The pairs that a run was made from, and the manifest that says how they were read."""
    pairs, manifest = run.pairs()
    if input_hash(pairs) != manifest["inputs"].get("pairs"):
        raise InputError(
            f"{input_text(pairs)} changed since {run.path} was made. "
            f"Run again: kat run {input_text(pairs)} --out {run.path} --overwrite{reading_flags(reading_of(manifest))}"
        )
    return pairs, manifest


def _headings(pairs: Iterable[Pair], shown: set[int]) -> dict[str, Heading]:
    """What to show of some rows, by id."""
    pairs_shown = (pair for pair in pairs if pair.row in shown)
    return headings(pair.prefix for pair in islice(pairs_shown, len(shown)))


def prove(output: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    """Check a file of pair weights: mean and multiplicity, a split that no group crosses, the weights of its run."""
    table, manifest = read_pair_weights(output, vouched=False), run.manifest(output) or {}
    remedy = f"Make it again: {weigh_again(output)} --overwrite"
    if run.is_run and manifest["inputs"].get("weights") != sha256_file(run.density / WEIGHTS):
        raise MismatchError(f"{output} was made from other weights than those of {run.density}. {remedy}")
    line = check_pair_weights(table, output, by_group=manifest["options"].get("split") == "group")
    if damage := first_damage(output, manifest):
        raise MismatchError(f"{output}: {damage}. {remedy}")
    return [line]
