"""A policy, its reference and a reward → how often its completions win and how far it is from the reference, by bin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.artifacts import json_bytes, readable_manifest
from kat.config import RunOptions, recorded
from kat.errors import InputError, MismatchError
from kat.grpo_config import AnswerOptions
from kat.inputs import HashedInput
from kat.models.digests import model_inputs
from kat.models.sources import ModelSource, resolve
from kat.pair_weights.storage import read_pair_weights
from kat.reports.console.evaluate_policy import policy_lines, policy_summary
from kat.run_folder import ANSWERS, POLICY_EVALUATION, WINS, RunFolder, weigh_again
from kat.stages.export_weights import source_of_weights
from kat.stages.pair_training import check_place
from kat.stages.policy_scores import trained_from
from kat.stages.reward_inputs import reward_inputs
from kat.stages.run_prompts import held_out, prompts_of_run
from kat.stages.stage import stage
from kat.training.prompt_sampler import Asked, some_of_each_bin
from kat.training_config import trained_limits

if TYPE_CHECKING:
    from kat.training.generation import Completion
    from kat.training.policy import Policy


def evaluate_policy(
    policy: str,
    folder: Path,
    rewards: Sequence[str],
    out: Path | None,
    options: AnswerOptions,
    *,
    against: str | None = None,
    reward_weights: Sequence[float] | None = None,
    run_options: RunOptions,
) -> Path:
    """Let a policy and its reference answer prompts of RUN's pairs that validate, `options.prompts` of each density
    bin, and reward what they say; return the folder written.

    The reference is `against`, or what the manifest of a folder of kat's trainers says that it was trained from.
    Raises InputError if there are no pair weights, or no prompt that only validates, MismatchError if the reference is
    not known or another by now.
    """
    run = RunFolder(folder)
    path = run.pair_weights()
    if not path.is_file():
        raise InputError(f"{path} does not exist. Make it with: {weigh_again(path)}")
    source, digest = source_of_weights(run, path, None)
    place = resolve(policy, allow_network=options.allow_network)
    reference = _reference(place, against, allow_network=options.allow_network)
    out = out or _default_place(run, place)
    check_place(out)
    options = options.within(prompt_limit(place.path, options.max_new_tokens))
    inputs: dict[str, Any] = {"pair_weights": path, "pairs": HashedInput(source, digest)}
    rewarding, read = reward_inputs(rewards, allow_network=options.allow_network)
    inputs |= model_inputs(place, "policy") | model_inputs(reference, "reference") | rewarding
    told = {"rewards": list(rewards), "reward_weights": None if reward_weights is None else list(reward_weights)}
    with stage(
        "evaluate-policy",
        out,
        inputs=inputs,
        options=recorded(options) | told,
        files=(POLICY_EVALUATION, ANSWERS, WINS),
        apart=[place.path, reference.path, *read],
        alone=True,
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return out
        table = read_pair_weights(path)
        asked = some_of_each_bin(held_out(prompts_of_run(run, source, table)), options.prompts)
        if not asked:
            raise InputError(f"{path} has no prompt that validates and does not train. Weigh with --validation_share.")
        device = run_options.device
        rows, in_part = _answered(place, reference, asked, rewards, options, scales=reward_weights, device=device)
        names = {"policy": place.name, "reference": reference.name, "rewards": list(rewards)}
        facts = _facts(rows, options) | names | in_part
        (job.folder / ANSWERS).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        (job.folder / WINS).write_bytes(b"".join(orjson.dumps(_win(row)) + b"\n" for row in rows))
        (job.folder / POLICY_EVALUATION).write_bytes(json_bytes(facts))
        job.facts["report"] = facts
        job.say(policy_summary(facts), policy_lines(facts))
    return out


def prompt_limit(policy: Path, max_new_tokens: int) -> int:
    """Return a limit under which prompts are as long as those that the policy was trained on: GRPO keeps room for its
    own `max_new_tokens`, DPO for completions of any length, and both leave a prompt `min_prompt` tokens at least."""
    limits, manifest = trained_limits(policy), readable_manifest(policy) or {}
    most = limits["max_len"]
    if manifest.get("stage") == "train-grpo":
        most += max_new_tokens - manifest["options"].get("max_new_tokens", max_new_tokens)
    return int(max(most, limits["min_prompt"] + max_new_tokens))


def _reference(place: ModelSource, against: str | None, *, allow_network: bool) -> ModelSource:
    if against is not None:
        return resolve(against, allow_network=allow_network)
    known = trained_from(place.path, "--against", allow_network=allow_network)
    if known is None:
        raise MismatchError(f"{place.name} does not say what it was trained from. Name it with --against.")
    return known


def _default_place(run: RunFolder, place: ModelSource) -> Path:
    """RUN/dpo.policy for RUN/dpo."""
    return run.root / f"{place.path.resolve().name}.policy"


def _answered(
    place: ModelSource,
    reference: ModelSource,
    asked: Sequence[Asked],
    rewards: Sequence[str],
    options: AnswerOptions,
    *,
    scales: Sequence[float] | None,
    device: str,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return a row a prompt: what both say, what it is worth, and the policy's KL from the reference a token; and how
    many prompts were read in part."""
    from kat.training.answers import divergence, text_of
    from kat.training.reward_sources import reward_of
    from kat.training.tokens import prompt_facts
    from kat.training.train_grpo import load_policy, prompts_of_policy

    # First, for a reward that is not there is told before all is said.
    reward = reward_of(rewards, scales, device, precision=options.precision, allow_network=options.allow_network)
    how = options.of_training(str(place.name))
    models = [load_policy(options.of_training(str(one.name)), device) for one in (place, reference)]
    if models[0].loaded.tokenizer.get_vocab() != models[1].loaded.tokenizer.get_vocab():
        raise MismatchError(f"{reference.name} has another vocabulary than {place.name}. Name another with --against.")
    prompts = prompts_of_policy(models[0], asked, how)
    said = [_said(model, prompts.trunks, options) for model in models]
    told: dict[str, Any] = {"temperature": options.temperature, "budget": options.row_tokens}
    kls = divergence(models[0], models[1], prompts.trunks, said[0], **told)
    texts = [[text_of(model, one) for one in own] for model, own in zip(models, said, strict=True)]
    worth = [reward(list(asked), own) for own in texts]
    rows = []
    for i, one in enumerate(asked):
        sides = {}
        for side, name in enumerate(("policy", "reference")):
            done = said[side][i]
            sides[name] = {
                "completion": texts[side][i],
                "reward": float(worth[side][i]),
                "tokens": len(done.tokens),
                "ended": bool(done.ended),
            }
        known = {"id": one.context_id, "opening_id": one.opening_id, "bin": one.bin, "prompt": one.messages}
        rows.append(known | sides | {"kl": float(kls[i])})
    return rows, prompt_facts(prompts.cut, prompts.tools_unread)


def _said(model: Policy, trunks: Sequence[np.ndarray], options: AnswerOptions) -> list[Completion]:
    """Return a completion a prompt; both policies draw by the same random numbers."""
    from kat.training.generation import PolicyGenerator, Sampling

    sampling = Sampling(options.max_new_tokens, frozenset(model.loaded.chat.end[-1:]), options.temperature)
    seeds = [(options.seed, i) for i in range(len(trunks))]
    return [one for [one] in PolicyGenerator(model, options.decode_rows).generate(trunks, 1, sampling, seeds)]


def _facts(rows: Sequence[dict[str, Any]], options: AnswerOptions) -> dict[str, Any]:
    """Return how often the policy's completion has the higher reward, ties ½, and its KL, each with an interval of a
    bootstrap over openings, in all and by density bin; and means of what both say."""
    from kat.evaluation.evaluate import evaluate
    from kat.evaluation.pairs import EvalPairs

    pairs = EvalPairs(
        [row["id"] for row in rows],
        [row["opening_id"] for row in rows],
        [""] * len(rows),
        np.asarray([row["bin"] for row in rows]),
    )
    sides = [np.asarray([row[name]["reward"] for row in rows]) for name in ("policy", "reference")]
    kl = np.asarray([row["kl"] for row in rows])
    wins = evaluate(pairs, *sides, seed=options.seed).as_dict()
    far = evaluate(pairs, kl, np.zeros(len(rows)), seed=options.seed).as_dict()

    def part(won: dict[str, Any], away: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompts": won["pairs"],
            "win_rate": won["unweighted"]["accuracy"],
            "reward_gain": won["unweighted"]["margin"],
            "kl": away["unweighted"]["margin"],
        }

    means = {
        name: {key: float(np.mean([row[name][key] for row in rows])) for key in ("reward", "tokens", "ended")}
        for name in ("policy", "reference")
    }
    return {
        "all": part(wins["all"], far["all"]),
        "bins": {name: part(one, far["bins"][name]) for name, one in wins["bins"].items()},
        **{f"{name}_answers": value for name, value in means.items()},
    }


def _win(row: dict[str, Any]) -> dict[str, Any]:
    """Return rewards as `kat evaluate-rm` reads them, so that two policies can be compared: the policy's completion is
    the chosen one, the reference's the rejected."""
    chosen, rejected = (row[name]["reward"] for name in ("policy", "reference"))
    return {"pair_id": row["id"], "chosen": chosen, "rejected": rejected, "opening_id": row["opening_id"], "src": ""}
