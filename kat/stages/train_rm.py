"""Weighed pairs and a model → a reward model for everybody's tools, its rewards of the validation pairs, a card."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.artifacts import json_bytes, read_manifest
from kat.config import ReadOptions, RunOptions, recorded
from kat.data.columns import reading_of, recorded_reading
from kat.data.pairs import PairReader
from kat.errors import InputError, MismatchError, OptionError
from kat.inputs import input_text
from kat.integrations.rows import WeighedPair, weighed_pairs
from kat.models.digests import settings_digest, weights_digest
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
    weigh_again,
)
from kat.stages.export_weights import source_of_weights
from kat.stages.stage import Job, stage, with_progress
from kat.statistics import effective_sample_size
from kat.training_config import OriginOptions, RewardOptions

if TYPE_CHECKING:
    from kat.training.tokens import TokenPairs
    from kat.training.train import Scored


@dataclass(frozen=True)
class Mark:
    """What is known of a pair beside its texts: its part, weight, opening, source, density bin (−1: not known)."""

    part: str
    v: float
    opening: str
    src: str
    bin: int


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
    inputs: dict[str, Path | str] = {"pair_weights": path, "pairs": digest}

    def weighed() -> Iterator[WeighedPair]:
        table = read_pair_weights(path)
        reading = reading_of(run.manifest(path) or {})
        pairs = with_progress(PairReader(source, "all", options=reading), "pairs")
        for one in weighed_pairs(pairs, table):
            yield replace(one, v=1.0) if uniform and one.part == "train" else one

    source_facts = {"pairs": input_text(source), "weights": "uniform" if uniform else path.name}
    bins = dict(_bins(read_pair_weights(path)))
    train_weighed(weighed, bins, out, inputs, options, run_options=run_options, facts=source_facts)
    return out


def train_weighed(
    weighed: Callable[[], Iterable[WeighedPair]],
    bins: Mapping[str, int],
    out: Path,
    inputs: Mapping[str, Path | str],
    options: RewardOptions,
    *,
    run_options: RunOptions,
    facts: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    weigh: Callable[[np.ndarray], np.ndarray] = normalised,
) -> None:
    """Train on what `weighed()` yields, and write OUT. `bins` are density bins by pair id, `facts` go into the
    manifest, `more` are options to record, and `weigh` makes pair weights of the values v of the pairs that train,
    after all drops."""
    model = resolve(options.model, allow_network=options.allow_network)
    digests = {"model": weights_digest(model), "model_settings": settings_digest(model)}
    with stage(
        "train-rm",
        out,
        inputs={**inputs, **digests},
        options=recorded(options) | {"uniform": facts["weights"] == "uniform"} | dict(more or {}),
        files=(*MODEL_FILES, TRAINING, TRAINING_LOG),
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        from kat.training.checkpoint import TrainingCheckpoint

        kept = TrainingCheckpoint(checkpoint_path(out), job.manifest, overwrite=run_options.overwrite)
        with kept:
            _train(job, weighed(), bins, options, run_options, weigh=weigh, checkpoint=kept, facts=facts)
    if not job.done:
        kept.remove()


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
        if ((read_manifest(path) or {}).get("options") or {}).get("unit") == "context":
            raise OptionError(
                f"{path} was made with --unit context, and ids of contexts are no ids of openings, which this command "
                "joins by. Use kat weigh-pairs and kat train-rm."
            )
    w = load_density_mapping(prompts_path, weights_path) if origin.density else {}
    missing = 0

    def weighed() -> Iterator[WeighedPair]:
        nonlocal missing
        reader = PairReader(pairs_path, run_options.max_bad_rows, options=reading)
        for pair in with_progress(reader, "pairs"):
            value = w.get(pair.prefix.id) if origin.density else 1.0
            if value is None:
                if origin.missing_weight != "one":
                    raise MismatchError(
                        f"{pairs_path}: row {pair.row:,}: opening {pair.prefix.id} has no weight in {weights_path}. "
                        "Make the weights of these pairs, or add --missing_weight one."
                    )
                missing, value = missing + 1, 1.0
            part = "validation" if validates(pair.prefix.id, origin.val_ratio, origin.val_seed) else "train"
            yield WeighedPair(pair, pair.id, part, value, value)

    def weigh(values: np.ndarray) -> np.ndarray:
        print(f"train-rm  {missing:,} pairs without a weight get 1; every other one has its own", file=sys.stderr)
        return origin_weights(values, origin.weight_mode, origin.weight_cap) if origin.density else np.ones(len(values))

    inputs: dict[str, Path | str] = {"pairs": pairs_path}
    if origin.density:
        inputs |= {"weights": weights_path, "ids": weights_path.parent / IDS, "prompts": prompts_path}
    train_weighed(
        weighed,
        {},
        out,
        inputs,
        options,
        run_options=run_options,
        facts={"pairs": str(pairs_path), "weights": "density" if origin.density else "uniform", "run": name},
        more=recorded(origin) | {"max_bad_rows": run_options.max_bad_rows} | recorded_reading(reading),
        weigh=weigh,
    )


def _train(
    job: Job,
    weighed: Iterable[WeighedPair],
    bins: Mapping[str, int],
    options: RewardOptions,
    run_options: RunOptions,
    *,
    weigh: Callable[[np.ndarray], np.ndarray],
    checkpoint: Any,
    facts: Mapping[str, Any],
) -> None:
    from kat.training.train import TrainedRewardModel, fit, load_reward_model, score_tokens, tokens_of

    model = load_reward_model(options, run_options.device)
    marks: dict[str, Mark] = {}
    tokens = tokens_of(model, _marked(weighed, bins, marks), options)
    part = np.asarray([marks[pair_id].part == "train" for pair_id in tokens.ids], bool)
    train, validation = tokens.select(np.flatnonzero(part)), tokens.select(np.flatnonzero(~part))
    if not len(train):
        raise InputError("No pair is left to train: all validate or were left out.")
    weights = weigh(np.asarray([marks[pair_id].v for pair_id in train.ids]))

    def on_step(numbers: dict[str, Any]) -> None:
        if options.eval_every and numbers["step"] % options.eval_every == 0 and len(validation):
            scored = score_tokens(model, validation, options.row_tokens)
            numbers["validation_accuracy"] = scored.accuracy
        checkpoint.add(numbers)
        if numbers["step"] % options.log_every == 0:
            _say_step(numbers)

    trained = TrainedRewardModel(
        model,
        fit(model, train, weights, options, checkpoint=checkpoint, on_step=on_step, progress=True),
        checkpoint.log,
        options,
    )
    report = dict(facts) | _data_facts(tokens, train, weights, marks) | {"training": trained.facts}
    report["model"] = model.loaded.meta["name"]
    if len(validation):
        scored = score_tokens(model, validation, options.row_tokens)
        (job.folder / VALIDATION_SCORES).write_bytes(b"".join(_score_lines(scored, marks)))
        report["validation"] = _evaluated(scored, marks)
    trained.save(job.folder)
    (job.folder / TRAINING).write_bytes(json_bytes(report))
    (job.folder / TRAINING_LOG).write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in checkpoint.log))
    (job.folder / "README.md").write_text(_card(job, report), encoding="utf-8")
    job.facts["report"] = {name: value for name, value in report.items() if name != "validation"}
    job.say(f"{trained.facts['steps']:,} steps over {len(train):,} pairs", training_lines(report))


def _marked(weighed: Iterable[WeighedPair], bins: Mapping[str, int], marks: dict[str, Mark]) -> Iterator[Any]:
    """Yield the pairs under their distinct ids, and write down what else is known of them."""
    for one in weighed:
        v = 1.0 if one.v is None else one.v
        marks[one.pair_id] = Mark(one.part, v, one.pair.prefix.id, one.pair.src, bins.get(one.pair_id, -1))
        yield replace(one.pair, id=one.pair_id)


def _bins(table: PairWeights) -> Iterator[tuple[str, int]]:
    return zip(table.pair_id.tolist(), table.bin.tolist(), strict=True)


def _data_facts(
    tokens: TokenPairs, train: TokenPairs, weights: np.ndarray, marks: Mapping[str, Mark]
) -> dict[str, Any]:
    """What was read, what was left out and where, and how uneven the weights are."""
    dropped: dict[str, Counter[str]] = {}
    for pair_id, reason in tokens.dropped_ids.items():
        dropped.setdefault(reason, Counter())[str(marks[pair_id].bin)] += 1
    return {
        "pairs_read": len(tokens) + len(tokens.dropped_ids),
        "train_pairs": len(train),
        "validation_pairs": len(tokens) - len(train),
        "dropped_by_bin": {reason: dict(sorted(counts.items())) for reason, counts in dropped.items()},
        "prompts_cut": tokens.cut,
        "prompts_whose_tools_are_not_written": tokens.tools_unread,
        "ess_pairs": effective_sample_size(weights),
    }


def _evaluated(scored: Scored, marks: Mapping[str, Mark]) -> dict[str, Any]:
    from kat.evaluation.evaluate import evaluate
    from kat.evaluation.pairs import EvalPairs

    of_pairs = [marks[pair_id] for pair_id in scored.ids]
    bins = np.asarray([mark.bin for mark in of_pairs])
    pairs = EvalPairs(
        scored.ids, [m.opening for m in of_pairs], [m.src for m in of_pairs], bins if (bins >= 0).any() else None
    )
    return evaluate(pairs, scored.chosen, scored.rejected).as_dict()


def _score_lines(scored: Scored, marks: Mapping[str, Mark]) -> Iterator[bytes]:
    """Yield rewards as `kat evaluate-rm` reads them."""
    for pair_id, chosen, rejected in zip(scored.ids, scored.chosen.tolist(), scored.rejected.tolist(), strict=True):
        mark = marks[pair_id]
        row = {"pair_id": pair_id, "chosen": chosen, "rejected": rejected, "opening_id": mark.opening, "src": mark.src}
        yield orjson.dumps(row) + b"\n"


def _say_step(numbers: Mapping[str, Any]) -> None:
    measured = numbers.get("validation_accuracy")
    print(
        f"train-rm  step {numbers['step']:,}: loss {numbers['loss']:.4f}, accuracy {numbers['accuracy']:.3f}"
        + ("" if measured is None else f", validation {measured:.3f}"),
        file=sys.stderr,
    )


def _card(job: Job, report: Mapping[str, Any]) -> str:
    """Return the model card: what was trained on what, by which command, and what came of it."""
    inputs = "\n".join(f"| {name} | `{digest}` |" for name, digest in job.manifest["inputs"].items())
    command = " ".join(map(shlex.quote, sys.argv))
    return "\n".join(
        [
            "---",
            "pipeline_tag: text-classification",
            "tags: [reward-model, preference, kat]",
            "---",
            "",
            f"A reward model trained from `{report['model']}` with {report['weights']} pair weights (`kat train-rm`).",
            "A higher number is a better completion.",
            "",
            "| input | sha256 |",
            "|---|---|",
            inputs,
            "",
            "```",
            *training_lines(report),
            "```",
            "",
            f"Command: `{command}`",
            "",
        ]
    )
