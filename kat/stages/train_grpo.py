"""Weighed prompts, a policy and a reward → a policy for everybody's tools, what it said before and after, a card."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.artifacts import json_bytes
from kat.config import ReadOptions, RunOptions, recorded
from kat.data.columns import recorded_reading
from kat.data.pairs import PairReader
from kat.errors import InputError, MismatchError
from kat.grpo_config import GrpoOptions
from kat.inputs import HashedInput, input_text
from kat.models.digests import model_inputs
from kat.models.sources import resolve
from kat.pair_config import PairOptions
from kat.pair_weights.storage import read_pair_weights
from kat.reports.console.train_grpo import training_lines, training_summary
from kat.reports.model_card import model_card
from kat.run_folder import (
    ANSWERS,
    DPO,
    IDS,
    MODEL_FILES,
    TRAINING,
    TRAINING_LOG,
    RunFolder,
    checkpoint_path,
    tensorboard_path,
    weigh_again,
)
from kat.stages.export_weights import source_of_weights
from kat.stages.pair_training import check_place, discard_checkpoint, launched_ranks, open_checkpoint
from kat.stages.reward_inputs import reward_inputs
from kat.stages.run_prompts import asked_of, held_out, prompts_of_run
from kat.stages.stage import Job, stage, with_progress
from kat.statistics import density_bins
from kat.terminal import note
from kat.training.prompt_sampler import Asked, some_of_each_bin

if TYPE_CHECKING:
    from kat.training.grpo import GrpoTrainer
    from kat.training.train_grpo import Prompts


@dataclass(frozen=True, eq=False)
class Drawn:
    """Prompts that train, those that are answered alone, and the weight of each opening."""

    train: list[Asked]
    fixed: list[Asked]
    weights: dict[str, float]


def train_grpo(
    folder: Path,
    rewards: Sequence[str],
    out: Path | None,
    options: GrpoOptions,
    run_options: RunOptions,
    *,
    uniform: bool = False,
    blend: float | None = None,
    reward_weights: Sequence[float] | None = None,
) -> Path:
    """Train on the prompts of RUN's pairs that train, drawn by density weight or uniformly; return the folder written.

    Openings are drawn in proportion to blend · u + 1 − blend, both as the pair weights have them unless told. Prompts
    of pairs that validate are the fixed ones. Raises InputError if there are no pair weights, OptionError for a blend
    out of range.
    """
    if blend is not None:
        PairOptions(blend=blend)  # the same limits
    run = RunFolder(folder)
    path = run.pair_weights()
    if not path.is_file():
        raise InputError(f"{path} does not exist. Make it with: {weigh_again(path)}")
    source, digest = source_of_weights(run, path, None)
    options = replace(options, policy=policy_of_run(run, options.policy))
    out = out or run.root / ("grpo.uniform" if uniform else "grpo")

    def drawn() -> Drawn:
        table = read_pair_weights(path)
        parts = prompts_of_run(run, source, table)
        weights = table.draw_weights(0.0 if uniform else blend)
        return Drawn(list(parts["train"].values()), some_of_each_bin(held_out(parts), options.fixed_prompts), weights)

    facts = {"pairs": input_text(source), "drawn": "uniform" if uniform else "density"}
    inputs: dict[str, Path | HashedInput] = {"pair_weights": path, "pairs": HashedInput(source, digest)}
    told: dict[str, Any] = {"facts": facts, "more": {} if uniform else {"blend": blend}, "scales": reward_weights}
    train_drawn(drawn, rewards, out, inputs, options, run_options=run_options, **told)
    return out


def policy_of_run(run: RunFolder, name: str) -> str:
    """Return the path of RUN's own policy of `kat train-dpo` that a name like `dpo` means, where there is one; else the
    name."""
    own = run.root / name
    is_own = name in (DPO, f"{DPO}.uniform") and not Path(name).exists() and (own / "config.json").is_file()
    return str(own) if is_own else name


def train_grpo_origin(
    pairs_path: Path,
    prompts_path: Path,
    weights_path: Path | None,
    rewards: Sequence[str],
    *,
    out: Path,
    options: GrpoOptions,
    density: bool,
    run_options: RunOptions,
    reading: ReadOptions = ReadOptions(),
    name: str | None = None,
) -> None:
    """Train as the origin's command does: all openings of the pairs, drawn uniformly or by the weights of a folder.

    Nothing is held out: the fixed prompts are some of those that train. Raises MismatchError for an opening without a
    weight.
    """
    from kat.density.storage import load_density_mapping

    w = load_density_mapping(prompts_path, weights_path) if weights_path is not None else {}

    def drawn() -> Drawn:
        names = list(w)
        bins: dict[str, int] = {}
        if names:
            rarity = -np.asarray([w[name] for name in names])
            bins = dict(zip(names, density_bins(rarity, np.ones(len(names), bool)).tolist(), strict=True))
        reader = PairReader(pairs_path, run_options.max_bad_rows, options=reading.within(run_options))
        asked: dict[str, Asked] = {}
        for pair in with_progress(reader, "pairs"):
            if w and pair.prefix.id not in w:
                raise MismatchError(
                    f"{pairs_path}: row {pair.row:,}: opening {pair.prefix.id} has no weight in {weights_path}. Make "
                    "the weights of these pairs."
                )
            one = asked_of(pair, bins.get(pair.prefix.id, -1))
            asked.setdefault(one.context_id, one)
        if reader.stats.bad:
            facts["bad_rows"] = reader.bad_rows.places()
        listed = list(asked.values())
        weights = {one.opening_id: w[one.opening_id] if density else 1.0 for one in listed}
        return Drawn(listed, some_of_each_bin(listed, options.fixed_prompts), weights)

    inputs: dict[str, Path | HashedInput] = {"pairs": pairs_path}
    if weights_path is not None:
        inputs |= {"weights": weights_path, "ids": weights_path.parent / IDS, "prompts": prompts_path}
    facts: dict[str, Any] = {"pairs": str(pairs_path), "drawn": "density" if density else "uniform", "run": name}
    more = {"max_bad_rows": run_options.max_bad_rows} | recorded_reading(reading.within(run_options))
    train_drawn(drawn, rewards, out, inputs, options, run_options=run_options, facts=facts, more=more)


def train_drawn(
    drawn: Callable[[], Drawn],
    rewards: Sequence[str],
    out: Path,
    inputs: Mapping[str, Path | HashedInput],
    options: GrpoOptions,
    *,
    run_options: RunOptions,
    facts: Mapping[str, Any],
    scales: Sequence[float] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Train on what `drawn()` gives, and write OUT. `facts` go into the manifest, `more` are options to record."""
    check_place(out)
    ranks = launched_ranks(run_options.device)
    if ranks is not None and ranks.rank:
        _follow(drawn, rewards, out, options, scales=scales, ranks=ranks)
        return
    model = resolve(options.policy, allow_network=options.allow_network)
    rewarding, read = reward_inputs(rewards, allow_network=options.allow_network)
    told = {"rewards": list(rewards), "reward_weights": None if scales is None else list(scales)}
    with stage(
        "train-grpo",
        out,
        inputs={**inputs, **model_inputs(model, "policy"), **rewarding},
        options=recorded(options) | told | {"drawn": facts["drawn"]} | dict(more or {}),
        files=(*MODEL_FILES, TRAINING, TRAINING_LOG),
        apart=[model.path, *read],
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
            trainer, fixed, counts = _prepared(drawn(), rewards, options, device, scales=scales, ranks=ranks)
            job.all_read()  # and not at the end: hours later its pairs may change
            _train(job, trainer, fixed, checkpoint, device=device, facts=dict(facts) | counts)
    discard_checkpoint(out, job.manifest)


def _prepared(
    drawn: Drawn, rewards: Sequence[str], options: GrpoOptions, device: str, *, scales: Any, ranks: Any
) -> tuple[GrpoTrainer, Prompts, dict[str, Any]]:
    from kat.training.prompt_sampler import SystematicSampler
    from kat.training.reward_sources import reward_of
    from kat.training.tokens import prompt_facts
    from kat.training.train_grpo import load_policy, make_trainer, prompts_of_policy

    if not drawn.train:
        raise InputError("There is no prompt to train on: all pairs validate. Let a smaller share of them validate.")
    reward = reward_of(rewards, scales, device, precision=options.precision, allow_network=options.allow_network)
    policy = load_policy(options, device)
    prompts = prompts_of_policy(policy, drawn.train, options)
    fixed = prompts_of_policy(policy, drawn.fixed, options)
    sampler = SystematicSampler(drawn.train, drawn.weights, options.seed)
    trainer = make_trainer(policy, prompts, sampler, reward, options, device=device, ranks=ranks)
    openings = {one.opening_id for one in drawn.train}
    counts = {
        "prompts": len(prompts),
        "openings": len(openings),
        **prompt_facts(prompts.cut, prompts.tools_unread),
        "fixed_prompts": len(fixed),
        "fixed_prompts_cut": fixed.cut,
        "fixed_train": bool({one.context_id for one in drawn.fixed} & {one.context_id for one in drawn.train}),
        "model": policy.loaded.meta["name"],
        "rewards": reward.names,
    }
    return trainer, fixed, counts


def _follow(
    drawn: Callable[[], Drawn],
    rewards: Sequence[str],
    out: Path,
    options: GrpoOptions,
    *,
    scales: Sequence[float] | None,
    ranks: Any,
) -> None:
    """Do the part of a process that is not the first of several: it computes, and neither prints nor writes."""
    if not ranks.told(None):
        return
    from kat.training.checkpoint import ReadCheckpoint
    from kat.training.train_grpo import fit_policy

    os.environ["TQDM_DISABLE"] = "1"
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        trainer, fixed, _ = _prepared(drawn(), rewards, options, ranks.device, scales=scales, ranks=ranks)
        fit_policy(trainer, fixed, device=ranks.device, checkpoint=ReadCheckpoint(checkpoint_path(out)))


def _train(
    job: Job, trainer: GrpoTrainer, fixed: Prompts, checkpoint: Any, *, device: str, facts: Mapping[str, Any]
) -> None:
    from kat.training.grpo_metrics import reward_trend
    from kat.training.trackers import Tracker
    from kat.training.train_grpo import fit_policy, save_policy

    options = trainer.options

    def on_step(numbers: dict[str, Any]) -> None:
        checkpoint.add(numbers)
        if "answers" in numbers:
            return
        tracker.log(numbers)
        if numbers["step"] % options.log_every == 0:
            _say_step(numbers)

    tracker = Tracker(options.report_to, tensorboard_path(job.out), job.out.name, job.manifest["options"])
    with tracker:
        training = fit_policy(trainer, fixed, device=device, checkpoint=checkpoint, on_step=on_step, progress=True)
    log = [one for one in checkpoint.log if "answers" not in one]
    answers = [row for one in checkpoint.log if "answers" in one for row in one["answers"]]
    save_policy(trainer.policy, job.folder)
    report = dict(facts) | {"training": training, "trend": reward_trend([one["reward"] for one in log])}
    report["last"] = {name: log[-1][name] for name in _LAST if name in log[-1]}
    report["answers"] = _answer_facts(answers)
    (job.folder / ANSWERS).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in answers))
    (job.folder / TRAINING).write_bytes(json_bytes(report))
    (job.folder / TRAINING_LOG).write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in log))
    (job.folder / "README.md").write_text(_card(job.manifest, report), encoding="utf-8")
    job.facts["report"] = report
    job.say(training_summary(report), training_lines(report))


_LAST = ("reward", "kl", "entropy", "length", "truncated", "repetition", "distinct_2", "generator_gap")


def _answer_facts(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean reward, tokens, share cut off and KL of the fixed prompts' answers, by step."""
    facts = []
    for step in sorted({row["step"] for row in answers}):
        rows = [row for row in answers if row["step"] == step]
        means = {name: float(np.mean([row[name] for row in rows])) for name in ("reward", "tokens", "ended", "kl")}
        facts.append({"step": step, "answers": len(rows)} | means)
    return facts


def _card(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    told = (
        f"A policy trained from `{report['model']}` by GRPO, its prompts drawn by {report['drawn']} weights "
        "(`kat train-grpo`)."
    )
    return model_card("text-generation", "grpo", told, manifest["inputs"], training_lines(report))


def _say_step(numbers: Mapping[str, Any]) -> None:
    note(
        f"train-grpo  step {numbers['step']:,}: reward {numbers['reward']:.4f}, KL {numbers['kl']:.5f}, "
        f"length {numbers['length']:.0f}, cut off {numbers['truncated']:.0%}"
    )
