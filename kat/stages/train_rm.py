"""Weighed pairs and a model → a reward model for everybody's tools, its rewards of the validation pairs, a card."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.artifacts import json_bytes, readable_manifest
from kat.config import ReadOptions, RunOptions, recorded
from kat.data.columns import reading_of, recorded_reading
from kat.data.pairs import PairReader
from kat.errors import InputError, MismatchError, OptionError, OutputError
from kat.inputs import HashedInput, input_text
from kat.integrations.rows import WeighedPair, weighed_pairs
from kat.journal import discard_work
from kat.models.digests import model_inputs
from kat.models.sources import resolve
from kat.pair_weights.origin import origin_weights, validates
from kat.pair_weights.storage import PairWeights, read_pair_weights
from kat.pair_weights.weigh import normalised
from kat.reports.console.train_rm import training_lines
from kat.run_folder import (
    IDS,
    MODEL_FILES,
    TRAINING,
    TRAINING_LOG,
    VALIDATION_SCORES,
    RunFolder,
    checkpoint_path,
    tensorboard_path,
    weigh_again,
)
from kat.stages.export_weights import source_of_weights
from kat.stages.reward_report import Prepared, card_text, data_facts, evaluated, prepare, score_lines
from kat.stages.stage import Job, stage, with_progress
from kat.terminal import note
from kat.training_config import OriginOptions, RewardOptions


def train_rm(
    folder: Path,
    out: Path | None,
    pair_weights: str | None,
    options: RewardOptions,
    run_options: RunOptions,
) -> Path:
    """Train on RUN's pairs with the weights v and the split of its pair_weights.parquet; return the folder written.

    `pair_weights` is another such file, or "uniform" for the same split with all weights 1. Raises InputError if there
    are no pair weights, or if the pairs changed since.
    """
    uniform = pair_weights == "uniform"
    run = RunFolder(folder if pair_weights is None or uniform else Path(pair_weights))
    path = run.pair_weights()
    if not path.is_file():
        raise InputError(f"{path} does not exist. Make it with: {weigh_again(path)}")
    source, digest = source_of_weights(run, path, None)
    out = out or RunFolder(folder).root / ("rm.uniform" if uniform else "rm")
    inputs: dict[str, Path | HashedInput] = {"pair_weights": path, "pairs": HashedInput(source, digest)}

    def weighed() -> Iterator[WeighedPair]:
        table = read_pair_weights(path)
        reading = reading_of(run.manifest(path) or {})
        pairs = with_progress(PairReader(source, "all", options=reading), "pairs")
        for one in weighed_pairs(pairs, table):
            yield replace(one, v=1.0) if uniform and one.part == "train" else one

    source_facts = {"pairs": input_text(source), "weights": "uniform" if uniform else path.name}
    places = dict(_places(read_pair_weights(path)))
    train_weighed(weighed, places, out, inputs, options, run_options=run_options, facts=source_facts)
    return out


def train_weighed(
    weighed: Callable[[], Iterable[WeighedPair]],
    places: Mapping[str, tuple[int, str]],
    out: Path,
    inputs: Mapping[str, Path | HashedInput],
    options: RewardOptions,
    *,
    run_options: RunOptions,
    facts: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    weigh: Callable[[np.ndarray], np.ndarray] = normalised,
) -> None:
    """Train on what `weighed()` yields, and write OUT. `places` are the density bin and
    the group of near-duplicates of pairs by id, `facts` go into the
    manifest, `more` are options to record, and `weigh` makes pair weights of the values v of the pairs that train,
    after all drops."""
    check_place(out)
    ranks = launched_ranks(run_options.device)
    kept = {"kept_activations": True} if options.activation_cache else {}  # they round, wherever they are kept

    def prepared(device: str) -> Prepared:
        return prepare(weighed(), places, options, device, weigh)

    if ranks is not None and ranks.rank:
        _follow(prepared, out, options, ranks)
        return
    model = resolve(options.model, allow_network=options.allow_network)
    with stage(
        "train-rm",
        out,
        inputs={**inputs, **model_inputs(model)},
        options=recorded(options) | {"uniform": facts["weights"] == "uniform"} | dict(more or {}) | kept,
        files=(*MODEL_FILES, TRAINING, TRAINING_LOG),
        apart=[model.path],
        alone=True,
        overwrite=run_options.overwrite,
    ) as job:
        if ranks is not None:
            ranks.told(not job.done)
        if job.done:
            discard_checkpoint(out, job.manifest)
            return
        from kat.training.checkpoint import TrainingCheckpoint
        from kat.training.train import precision_of

        device = run_options.device if ranks is None else ranks.device
        # What `auto` leaves open: a state is gone on from where it is computed alike.
        computed = {"options": {**job.manifest["options"], "computed": precision_of(options, device)}}
        checkpoint = TrainingCheckpoint(checkpoint_path(out), job.manifest | computed, overwrite=run_options.overwrite)
        with checkpoint:
            ready = prepared(device)
            job.all_read()  # and not at the end: hours later its pairs may change
            _train(job, ready, options, ranks=ranks, checkpoint=checkpoint, facts=facts)
    discard_checkpoint(out, job.manifest)


def _follow(prepared: Callable[[str], Prepared], out: Path, options: RewardOptions, ranks: Any) -> None:
    """Do the part of a process that is not the first of several: it computes, and neither prints nor writes."""
    if not ranks.told(None):
        return
    from kat.training.checkpoint import ReadCheckpoint
    from kat.training.train import fit

    os.environ["TQDM_DISABLE"] = "1"
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        ready = prepared(ranks.device)
        kept = ReadCheckpoint(checkpoint_path(out))
        fit(ready.model, ready.train, ready.weights, options, checkpoint=kept, ranks=ranks, selection=ready.selection)


def check_place(out: Path) -> None:
    """Raise OutputError for a folder that holds a run: a model among its files would be neither."""
    if RunFolder(out).is_run:
        raise OutputError(f"{out} is the folder of a run. Give the model one of its own: --out {out / 'model'}")


def discard_checkpoint(out: Path, made_from: Mapping[str, Any]) -> None:
    """Remove the checkpoint of a training that is complete, also one that was killed as it had become so."""
    folder = checkpoint_path(out)
    if folder.is_dir():
        from kat.training.checkpoint import FILES

        discard_work(folder, made_from, FILES)


def launched_ranks(device: str) -> Any:
    """Return the processes that train together; torch loads only where there are several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from kat.training.ranks import SeveralRanks

    return SeveralRanks(device)


def train_rm_origin(
    pairs_path: Path,
    prompts_path: Path,
    weights_path: Path,
    out: Path,
    options: RewardOptions,
    *,
    origin: OriginOptions,
    run_options: RunOptions,
    reading: ReadOptions = ReadOptions(),
    name: str | None = None,
) -> None:
    """Train as the origin's command does: weights joined by opening id, its own split, uniform unless `density`.

    Raises MismatchError for a pair whose opening has no weight, unless `missing_weight` is "one", and OptionError for
    weights that are of contexts: the origin's ids are of openings.
    """
    from kat.density.storage import load_density_mapping

    for path in (prompts_path, weights_path.parent):
        if ((readable_manifest(path) or {}).get("options") or {}).get("unit") == "context":
            raise OptionError(
                f"{path} was made with --unit context, and ids of contexts are no ids of openings, which this command "
                "joins by. Use kat weigh-pairs and kat train-rm."
            )
    w = load_density_mapping(prompts_path, weights_path) if origin.density else {}
    facts: dict[str, Any] = {"pairs": str(pairs_path), "weights": "uniform", "run": name}
    if origin.density:
        facts |= {"weights": "density", "pairs_without_weight": 0}

    def weighed() -> Iterator[WeighedPair]:
        reader = PairReader(pairs_path, run_options.max_bad_rows, options=reading.within(run_options))
        for pair in with_progress(reader, "pairs"):
            value = w.get(pair.prefix.id) if origin.density else 1.0
            if value is None:
                if origin.missing_weight != "one":
                    raise MismatchError(
                        f"{pairs_path}: row {pair.row:,}: opening {pair.prefix.id} has no weight in {weights_path}. "
                        "Make the weights of these pairs, or add --missing_weight one."
                    )
                facts["pairs_without_weight"] += 1
                value = 1.0
            part = "validation" if validates(pair.prefix.id, origin.val_ratio, origin.val_seed) else "train"
            yield WeighedPair(pair, pair.id, part, value, value)

    def weigh(values: np.ndarray) -> np.ndarray:
        return origin_weights(values, origin.weight_mode, origin.weight_cap) if origin.density else np.ones(len(values))

    inputs: dict[str, Path | HashedInput] = {"pairs": pairs_path}
    if origin.density:
        inputs |= {"weights": weights_path, "ids": weights_path.parent / IDS, "prompts": prompts_path}
    train_weighed(
        weighed,
        {},
        out,
        inputs,
        options,
        run_options=run_options,
        facts=facts,
        more=recorded(origin)
        | {"max_bad_rows": run_options.max_bad_rows}
        | recorded_reading(reading.within(run_options)),
        weigh=weigh,
    )


def _train(
    job: Job,
    prepared: Prepared,
    options: RewardOptions,
    *,
    ranks: Any,
    checkpoint: Any,
    facts: Mapping[str, Any],
) -> None:
    from kat.training.trackers import Tracker
    from kat.training.train import TrainedRewardModel, fit, scorer_of

    model, train, validation = prepared.model, prepared.train, prepared.validation
    validated = scorer_of(model, validation, options) if len(validation) else None

    def on_step(numbers: dict[str, Any]) -> None:
        if options.eval_every and numbers["step"] % options.eval_every == 0 and validated is not None:
            numbers["validation_accuracy"] = validated().accuracy
        checkpoint.add(numbers)
        tracker.log(numbers)
        if numbers["step"] % options.log_every == 0:
            _say_step(numbers)

    tracker = Tracker(options.report_to, tensorboard_path(job.out), job.out.name, job.manifest["options"])
    told: dict[str, Any] = {"checkpoint": checkpoint, "on_step": on_step, "progress": True, "ranks": ranks}
    told["selection"] = prepared.selection
    with tracker:
        training = fit(model, train, prepared.weights, options, **told)
    trained = TrainedRewardModel(model, training, checkpoint.log, options)
    report = dict(facts) | data_facts(prepared) | {"training": trained.facts}
    report["model"] = model.loaded.meta["name"]
    if validated is not None:
        scored = validated()
        (job.folder / VALIDATION_SCORES).write_bytes(b"".join(score_lines(scored, prepared.marks)))
        report["validation"] = evaluated(scored, prepared.marks)
    trained.save(job.folder)
    (job.folder / TRAINING).write_bytes(json_bytes(report))
    (job.folder / TRAINING_LOG).write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in checkpoint.log))
    (job.folder / "README.md").write_text(card_text(job.manifest, report), encoding="utf-8")
    job.facts["report"] = {name: value for name, value in report.items() if name != "validation"}
    job.say(f"{trained.facts['steps']:,} steps over {len(train):,} pairs", training_lines(report))


def _places(table: PairWeights) -> Iterator[tuple[str, tuple[int, str]]]:
    groups = zip(table.bin.tolist(), map(str, table.group.tolist()), strict=True)
    return zip(table.pair_id.tolist(), groups, strict=True)


def _say_step(numbers: Mapping[str, Any]) -> None:
    measured = numbers.get("validation_accuracy")
    note(
        f"train-rm  step {numbers['step']:,}: loss {numbers['loss']:.4f}, accuracy {numbers['accuracy']:.3f}"
        + ("" if measured is None else f", validation {measured:.3f}")
    )
