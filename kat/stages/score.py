"""A reward model and pairs → the rewards of both completions of every pair, as `kat evaluate-rm` reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from kat.artifacts import read_manifest
from kat.config import ReadOptions, RunOptions, recorded
from kat.data.columns import reading_of, recorded_reading
from kat.data.pairs import PairReader
from kat.errors import InputError
from kat.inputs import Inputs, input_paths
from kat.integrations.rows import weighed_pairs
from kat.models.digests import settings_digest, weights_digest
from kat.models.sources import ModelSource, resolve
from kat.pair_weights.storage import read_pair_weights
from kat.records import Pair
from kat.run_folder import RunFolder, checkpoint_path
from kat.stages.export_weights import source_of_weights
from kat.stages.stage import stage, with_progress
from kat.training_config import RewardOptions, ScoreOptions


def score(
    model: str,
    pairs: Inputs,
    out: Path,
    options: ScoreOptions,
    run_options: RunOptions,
    *,
    reading: ReadOptions = ReadOptions(),
) -> None:
    """Write OUT, a row {"pair_id", "chosen", "rejected", "opening_id", "src"} for every pair, in the pairs' order.

    `pairs` are files of pairs, or one folder of a run with pair weights (or these themselves): then its pairs that
    train or validate, under the ids that they have there. A pair of two equal completions gets two equal rewards.
    """
    place = resolve(model, allow_network=options.allow_network)
    limits = _limits(place, options)
    with_table = _weighed(pairs)
    source, inputs = _source(pairs, with_table)
    if with_table:
        reading = reading_of(RunFolder(with_table).manifest(with_table) or {})
    with stage(
        "score",
        out,
        inputs=inputs | {"model": weights_digest(place), "model_settings": settings_digest(place)},
        options=recorded(options) | limits | {"max_bad_rows": run_options.max_bad_rows} | recorded_reading(reading),
        rejects=True,
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        from kat.training.scoring import ScoreCheckpoint, rewards_of
        from kat.training.train import load_reward_model, tokens_of

        training = replace(
            RewardOptions(model=model, **limits),
            long_completions=options.long_completions,
            precision=options.precision,
            allow_network=options.allow_network,
        )
        scorer = load_reward_model(training, run_options.device)
        reader = PairReader(source, "all" if with_table else run_options.max_bad_rows, job.rejected.write, reading)
        marks: dict[str, tuple[str, str]] = {}
        read = _of_table(reader, with_table) if with_table else with_progress(reader, "pairs")

        def seen(pair_id: str, pair: Pair) -> None:
            marks[pair_id] = (pair.prefix.id, pair.src)

        data = tokens_of(scorer, read, training, identical="keep", seen=seen)
        job.bad_rows = 0 if with_table else reader.stats.bad
        if not len(data):
            reasons = "".join(f" {n:,} left out: {reason}." for reason, n in data.dropped.items())
            raise InputError(f"No pair is left to score.{reasons} Raise --max_len, or name other pairs.")
        with ScoreCheckpoint(checkpoint_path(out), job.manifest, overwrite=run_options.overwrite) as kept:
            chosen, rejected = rewards_of(scorer, data, options.row_tokens, kept=kept, progress=True)
        for pair_id, one, other in zip(data.ids, chosen.tolist(), rejected.tolist(), strict=True):
            opening, src = marks[pair_id]
            row = {"pair_id": pair_id, "chosen": one, "rejected": other, "opening_id": opening, "src": src}
            job.file.write(orjson.dumps(row) + b"\n")
        margin = chosen - rejected
        accuracy = float(((margin > 0) + 0.5 * (margin == 0)).mean())
        job.facts["report"] = {"pairs": len(data), "accuracy": accuracy, "left_out": dict(data.dropped)}
        job.say(
            f"{len(data):,} pairs, {accuracy:.1%} with the higher reward for the chosen completion",
            [f"  left out  {n:,}: {reason}" for reason, n in data.dropped.items()],
        )
    if not job.done:
        kept.remove()


def _limits(place: ModelSource, options: ScoreOptions) -> dict[str, Any]:
    """The limits that are told, else those that the model was trained with by kat, else the defaults of training."""
    manifest = read_manifest(place.path) or {}
    trained = manifest.get("options", {}) if manifest.get("stage") == "train-rm" else {}
    limits = {}
    for name in ("max_len", "min_prompt"):
        told = getattr(options, name)
        limits[name] = told if told is not None else trained.get(name, getattr(RewardOptions, name))
    return limits


def _weighed(pairs: Inputs) -> Path | None:
    """The pair weights that are named by a run's folder, or themselves; None for pairs."""
    paths = input_paths(pairs)
    if len(paths) != 1:
        return None
    run = RunFolder(paths[0])
    is_table = run.pair_weights().is_file() and (run.manifest(run.pair_weights()) or {}).get("stage") == "weigh-pairs"
    return run.pair_weights() if is_table else None


def _source(pairs: Inputs, table: Path | None) -> tuple[Inputs, dict[str, Any]]:
    if table is None:
        return pairs, {"pairs": input_paths(pairs)}
    source, digest = source_of_weights(RunFolder(table), table, None)
    return source, {"pairs": digest, "pair_weights": table}


def _of_table(reader: PairReader, table: Path) -> Iterator[Pair]:
    read: Iterable[Any] = with_progress(reader, "pairs")
    for one in weighed_pairs(read, read_pair_weights(table)):
        yield replace(one.pair, id=one.pair_id)
