"""Weighed pairs and a model → a trained one, its rewards of the validation pairs, a card: what `kat train-rm` and
`kat train-dpo` have in common. What each does of its own is its `PairTraining`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from kat.artifacts import json_bytes
from kat.config import RunOptions, recorded
from kat.data.columns import reading_of
from kat.data.pairs import PairReader
from kat.errors import InputError, OutputError
from kat.inputs import HashedInput, input_text
from kat.integrations.rows import WeighedPair, weighed_pairs
from kat.journal import computing, discard_work
from kat.models.digests import model_inputs
from kat.models.sources import resolve
from kat.pair_weights.storage import PairWeights, read_pair_weights
from kat.pair_weights.weigh import normalised
from kat.parameters import near_name
from kat.reports.console.train_rm import training_lines, training_summary
from kat.run_folder import (
    FEATURES,
    MODEL_FILES,
    REFERENCE,
    TRAINING,
    TRAINING_LOG,
    VALIDATION_SCORES,
    RunFolder,
    checkpoint_path,
    tensorboard_path,
    weigh_again,
)
from kat.stages.export_weights import source_of_weights
from kat.stages.pair_report import Prepared, data_facts, evaluated, prepare, score_lines
from kat.stages.stage import Job, stage, with_progress
from kat.terminal import note


class Ready(Protocol):
    """A training that only has to be run."""

    def fit(self, **told: Any) -> dict[str, Any]:
        """Train, with the keywords of `kat.training.train.fit`, and return what the training was like."""

    def scores(self) -> Any:
        """Return the `Scored` validation pairs by the model as it is now."""

    def save(self, folder: Path) -> None:
        """Write the model."""


class PairTraining(Protocol):
    """What a stage that trains on weighed pairs does of its own."""

    @property
    def stage(self) -> str:
        """The name of the stage."""

    @property
    def place(self) -> str:
        """The name of the output in a run."""

    @property
    def role(self) -> str:
        """The name of the model among the inputs."""

    @property
    def options(self) -> Any:
        """What was told."""

    @property
    def source(self) -> str:
        """The name of the model that training starts from."""

    def load(self, device: str) -> Any:
        """Return the model."""

    def ready(self, prepared: Prepared, out: Path, models: Mapping[str, str], ranks: Any) -> Ready:
        """Return the training; `models` are the hashes of the model's files, by input."""

    def card(self, manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
        """Return the text of the model's card."""


def train_on_run(
    training: PairTraining,
    folder: Path,
    out: Path | None,
    pair_weights: str | None,
    *,
    run_options: RunOptions,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Train on RUN's pairs with the weights v and the split of its pair_weights.parquet; return the folder written.

    `pair_weights` is another such file, or "uniform" for the same split with all weights 1. Raises InputError if there
    are no pair weights, or if the pairs changed since. `more` are options to record.
    """
    uniform = pair_weights == "uniform"
    run = RunFolder(folder if pair_weights is None or uniform else Path(pair_weights))
    path = run.pair_weights()
    if not path.is_file():
        near = near_name(pair_weights or "", ["uniform"])
        raise InputError(f"{path} does not exist.{near or f' Make it with: {weigh_again(path)}'}")
    source, digest = source_of_weights(run, path, None)
    out = out or RunFolder(folder).root / (f"{training.place}.uniform" if uniform else training.place)
    inputs: dict[str, Path | HashedInput] = {"pair_weights": path, "pairs": HashedInput(source, digest)}

    def weighed() -> Iterator[WeighedPair]:
        table = read_pair_weights(path)
        reading = reading_of(run.manifest(path) or {})
        pairs = with_progress(PairReader(source, "all", options=reading), "pairs")
        for one in weighed_pairs(pairs, table):
            yield replace(one, v=1.0) if uniform and one.part == "train" else one

    source_facts = {"pairs": input_text(source), "weights": "uniform" if uniform else path.name}
    places = dict(_places(read_pair_weights(path)))
    train_weighed(training, weighed, places, out, inputs, run_options=run_options, facts=source_facts, more=more)
    return out


def train_weighed(
    training: PairTraining,
    weighed: Callable[[], Iterable[WeighedPair]],
    places: Mapping[str, tuple[int, str]],
    out: Path,
    inputs: Mapping[str, Path | HashedInput],
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
    options = training.options
    ranks = launched_ranks(run_options.device)

    def prepared(device: str) -> Prepared:
        return prepare(training.load(device), weighed(), places, options, weigh)

    if ranks is not None and ranks.rank:
        _follow(training, prepared, out, ranks)
        return
    model = resolve(training.source, allow_network=options.allow_network)
    models = model_inputs(model, training.role)
    with stage(
        training.stage,
        out,
        inputs={**inputs, **models},
        options=recorded(options)
        | options.recorded_too
        | {"uniform": facts["weights"] == "uniform"}
        | dict(more or {}),
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
        device = run_options.device if ranks is None else ranks.device
        with open_checkpoint(out, job.manifest, options, device, overwrite=run_options.overwrite) as checkpoint:
            pairs = prepared(device)
            job.all_read()  # and not at the end: hours later its pairs may change
            ready = training.ready(pairs, out, {name: job.manifest["inputs"][name] for name in models}, ranks)
            _train(job, training, pairs, ready, ranks=ranks, checkpoint=checkpoint, facts=facts)
    discard_checkpoint(out, job.manifest)


def _follow(training: PairTraining, prepared: Callable[[str], Prepared], out: Path, ranks: Any) -> None:
    """Do the part of a process that is not the first of several: it computes, and neither prints nor writes."""
    if not ranks.told(None):
        return
    from kat.training.checkpoint import ReadCheckpoint

    os.environ["TQDM_DISABLE"] = "1"
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        ready = training.ready(prepared(ranks.device), out, {}, ranks)
        ready.fit(checkpoint=ReadCheckpoint(checkpoint_path(out)), ranks=ranks)


def check_place(out: Path) -> None:
    """Raise OutputError for a folder that holds a run, where a model among its files would be neither, and for one of
    what trainings keep for each other, which anybody may delete."""
    if RunFolder(out).is_run:
        raise OutputError(f"{out} is the folder of a run. Give the model one of its own: --out {out / 'model'}")
    place = out.absolute()
    for kept in (place, *place.parents):
        if kept.name in (REFERENCE, FEATURES) and (kept == place or RunFolder(kept.parent).is_run):
            raise OutputError(f"{kept} is for what trainings keep, and can be deleted. Name another --out than {out}.")


def open_checkpoint(out: Path, made_from: Mapping[str, Any], options: Any, device: str, *, overwrite: bool) -> Any:
    """Return the checkpoint of a training. What `auto` leaves open is told too: a state is gone on from where it is
    computed alike."""
    from kat.training.checkpoint import TrainingCheckpoint
    from kat.training.train import precision_of

    asked = computing(made_from, precision_of(options, device))
    return TrainingCheckpoint(checkpoint_path(out), asked, overwrite=overwrite)


def discard_checkpoint(out: Path, made_from: Mapping[str, Any]) -> None:
    """Remove the checkpoint of a training that is complete, also one that was killed as it had become so."""
    folder = checkpoint_path(out)
    if folder.is_dir():
        from kat.training.checkpoint import FILES

        discard_work(folder, made_from, FILES)


def launched_ranks(device: str) -> Any:
    """Return the processes that a launcher started together, None for one by itself; torch loads only where there are
    several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from kat.training.ranks import SeveralRanks

    return SeveralRanks(device)


def _train(
    job: Job,
    training: PairTraining,
    prepared: Prepared,
    ready: Ready,
    *,
    ranks: Any,
    checkpoint: Any,
    facts: Mapping[str, Any],
) -> None:
    from kat.training.trackers import Tracker

    options, validates = training.options, len(prepared.validation) > 0

    def on_step(numbers: dict[str, Any]) -> None:
        if options.eval_every and numbers["step"] % options.eval_every == 0 and validates:
            numbers["validation_accuracy"] = ready.scores().accuracy
        checkpoint.add(numbers)
        tracker.log(numbers)
        if numbers["step"] == 1 or numbers["step"] % options.log_every == 0:
            _say_step(training.stage, numbers)

    tracker = Tracker(options.report_to, tensorboard_path(job.out), job.out.name, job.manifest["options"])
    with tracker:
        trained = ready.fit(checkpoint=checkpoint, on_step=on_step, progress=True, ranks=ranks)
    report = dict(facts) | data_facts(prepared) | {"training": trained}
    report["model"] = prepared.model.loaded.meta["name"]
    if (last := checkpoint.log[-1:]) and last[0]["step"] != 1 and last[0]["step"] % options.log_every:
        _say_step(training.stage, last[0])
    if validates:
        note(f"{training.stage}  measures the {len(prepared.validation):,} pairs that validate")
        scored = ready.scores()
        (job.folder / VALIDATION_SCORES).write_bytes(b"".join(score_lines(scored, prepared.marks)))
        report["validation"] = evaluated(scored, prepared.marks)
    ready.save(job.folder)
    (job.folder / TRAINING).write_bytes(json_bytes(report))
    (job.folder / TRAINING_LOG).write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in checkpoint.log))
    (job.folder / "README.md").write_text(training.card(job.manifest, report), encoding="utf-8")
    job.facts["report"] = {name: value for name, value in report.items() if name != "validation"}
    job.say(training_summary(report), training_lines(report))


def _places(table: PairWeights) -> Iterator[tuple[str, tuple[int, str]]]:
    groups = zip(table.bin.tolist(), map(str, table.group.tolist()), strict=True)
    return zip(table.pair_id.tolist(), groups, strict=True)


def _say_step(name: str, numbers: Mapping[str, Any]) -> None:
    measured = numbers.get("validation_accuracy")
    note(
        f"{name}  step {numbers['step']:,}: loss {numbers['loss']:.4f}, accuracy {numbers['accuracy']:.3f}"
        + ("" if measured is None else f", validation {measured:.3f}")
    )
