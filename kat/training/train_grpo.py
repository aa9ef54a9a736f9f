"""Train a policy in memory: load it, cut prompts to size, step, and let it answer fixed prompts on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.atomic import saving
from kat.devices import torch_threads
from kat.errors import InputError
from kat.grpo_config import GrpoOptions
from kat.models.load import load_model
from kat.parameters import with_options
from kat.terminal import bar_off, note
from kat.training.checkpoint import Checkpoint, restored
from kat.training.prompt_sampler import Asked, PromptSampler, SystematicSampler
from kat.training.reward_sources import Function, RewardSum, reward_of
from kat.training.tokens import prompt_facts, tell_prompts
from kat.training.train import precision_of

if TYPE_CHECKING:
    from kat.training.generation import Completion, Generator
    from kat.training.grpo import GrpoTrainer
    from kat.training.policy import Policy
    from kat.training.ranks import Ranks

FIXED = 1 << 40
"""Where a step's number stands in the seeds of answers to fixed prompts: no step has it."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Contexts to ask, their token ids, how many of these lost their beginning, and how many contexts have tools that
    the chat template does not write."""

    asked: Sequence[Asked]
    trunks: Sequence[np.ndarray]
    cut: int = 0
    tools_unread: int = 0

    def __len__(self) -> int:
        return len(self.asked)


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """A policy, what its training was like (`facts`), the numbers of every step (`log`), and the answers to the fixed
    prompts (`answers`), before, during and after."""

    policy: Policy
    facts: dict[str, Any]
    log: list[dict[str, Any]]
    answers: list[dict[str, Any]]

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as a Hugging Face folder."""
        save_policy(self.policy, Path(folder))


def train_policy(
    prompts: Sequence[Asked],
    rewards: str | Function | Sequence[str | Function],
    weights: Mapping[str, float] | None = None,
    policy: str = GrpoOptions.policy,
    *,
    fixed: Sequence[Asked] = (),
    reward_weights: Sequence[float] | None = None,
    sampler: PromptSampler | None = None,
    generator: Generator | None = None,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> TrainedPolicy:
    """Train a policy by GRPO on prompts that are drawn by the weights {opening id: w} of their openings.

    `rewards` are functions f(prefixes, completions) → numbers, module:function, or reward models; several are added,
    each times its weight of `reward_weights`. `options` are the fields of `kat.grpo_config.GrpoOptions`. `fixed`
    prompts are answered before and after. A `sampler` takes the place of weights, and a `generator` that of the
    policy's own. How many prompts lost their beginning is said, and stands in `facts["prompts_cut"]`.

    Raises InputError for no prompts, MismatchError for an opening without a weight, ModelError for a model that cannot
    be loaded, OptionError for an unknown option or one out of range.
    """
    chosen = with_options(GrpoOptions(), {"policy": policy} | options, train_policy)
    named = [rewards] if isinstance(rewards, str) or callable(rewards) else list(rewards)
    reward = reward_of(named, reward_weights, device, precision=chosen.precision, allow_network=chosen.allow_network)
    loaded = load_policy(chosen, device)
    w = {one.opening_id: 1.0 for one in prompts} if weights is None else weights
    asked = prompts_of_policy(loaded, prompts, chosen)
    read = prompt_facts(asked.cut, asked.tools_unread)
    limit = min(chosen.max_len, loaded.loaded.most or chosen.max_len)
    tell_prompts("train-grpo", read, len(asked), limit)
    trainer = make_trainer(
        loaded,
        asked,
        sampler or SystematicSampler(prompts, w, chosen.seed),
        reward,
        chosen,
        device=device,
        generator=generator,
    )
    log: list[dict[str, Any]] = []
    held = prompts_of_policy(loaded, fixed, chosen)
    of_fixed = prompt_facts(held.cut, held.tools_unread)
    tell_prompts("train-grpo  fixed:", of_fixed, len(held), limit)
    facts = fit_policy(trainer, held, device=device, on_step=log.append, progress=progress)
    answers = [row for one in log if "answers" in one for row in one["answers"]]
    read["fixed_prompts_cut"] = held.cut
    return TrainedPolicy(loaded, facts | read, [one for one in log if "answers" not in one], answers)


def load_policy(options: GrpoOptions, device: str) -> Policy:
    """Load the policy that training starts from, in float32."""
    from kat.training.policy import Policy

    loaded = load_model(
        options.policy, kind="causal", device=device, dtype="float32", allow_network=options.allow_network
    )
    policy = Policy(loaded, autocast=precision_of(options, str(loaded.device)) == "bfloat16")
    if options.top_p < 1 or options.top_k is not None:
        note("train-grpo  with top_p or top_k tokens are drawn from another distribution than the one that trains")
    if policy.unshared is not None:
        note(f"train-grpo  prompts are read again for each token, which is slow: {policy.unshared}")
    return policy


def load_reference(options: GrpoOptions, device: str) -> Policy:
    """Load the first policy again, to measure KL from."""
    from kat.training.readers import bfloat16_copy

    policy = load_policy(options, device)
    policy.model.requires_grad_(False)
    return bfloat16_copy(policy) if policy.autocast and policy.unshared is None else policy


def prompts_of_policy(policy: Policy, asked: Sequence[Asked], options: GrpoOptions) -> Prompts:
    """Return prompts as token ids, cut from the left to what leaves `max_new_tokens` within `max_len`, and within the
    positions that the model has."""
    most = min(options.max_len, policy.loaded.most or options.max_len) - options.max_new_tokens
    if most < 1:
        raise InputError(
            f"The model has positions for {policy.loaded.most} tokens, and max_new_tokens is {options.max_new_tokens}: "
            "there is no room for a prompt. Lower --max_new_tokens."
        )
    chat, trunks, cut = policy.loaded.chat, [], 0
    tools_unread = 0 if chat.takes_tools else sum(bool(one.tools) for one in asked)
    begin = chat.begin
    for one in asked:
        ids = np.asarray(chat.render(one.messages, one.tools), np.int64)
        if len(ids) > most:
            cut += 1
            kept = ids[-most:].copy()
            if most > len(begin) and ids[: len(begin)].tolist() == begin:
                kept[: len(begin)] = begin
            ids = kept
        trunks.append(ids)
    return Prompts(asked, trunks, cut, tools_unread)


def make_trainer(
    policy: Policy,
    prompts: Prompts,
    sampler: PromptSampler,
    reward: RewardSum,
    options: GrpoOptions,
    *,
    device: str,
    generator: Generator | None = None,
    ranks: Ranks | None = None,
) -> GrpoTrainer:
    """Return the loop over prompts; the reference is loaded if beta is not 0."""
    from kat.training.grpo import GrpoTrainer

    reference = load_reference(options, device) if options.beta else None
    return GrpoTrainer(
        policy,
        prompts.asked,
        prompts.trunks,
        sampler,
        reward,
        options=options,
        reference=reference,
        generator=generator,
        ranks=ranks,
    )


def fit_policy(
    trainer: GrpoTrainer,
    fixed: Prompts,
    *,
    device: str,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, and return what the training was like.

    `on_step` gets the numbers of every step, and {"step", "answers": …} whenever fixed prompts were answered. With a
    `checkpoint`, its state is gone on from, and kept every `save_every` steps.
    """
    from tqdm import tqdm

    options, ranks = trainer.options, trainer.ranks
    began = time.monotonic()
    told: Callable[[dict[str, Any]], object] = on_step or (lambda _: None)
    if restored(trainer, checkpoint, ranks, trainer.policy.device):
        note(f"train-grpo  goes on at step {trainer.done:,} of {options.max_steps:,}")

    def answer() -> None:
        if len(fixed) and not ranks.rank:
            told({"step": trainer.done, "answers": list(answers(trainer, fixed, device))})

    bar = tqdm(
        total=options.max_steps,
        initial=trainer.done,
        unit="step",
        desc="train-grpo",
        disable=bar_off(progress),
    )
    totals = {"tokens_generated": 0.0, "seconds_generating": 0.0, "seconds_training": 0.0}
    with torch_threads(), bar:
        if trainer.done == 0:
            answer()
        for numbers in trainer.run():
            bar.update()
            bar.set_postfix(reward=f"{numbers['reward']:.3f}", kl=f"{numbers['kl']:.4f}", refresh=False)
            told(numbers)
            totals = {name: total + numbers[name] for name, total in totals.items()}
            at_end = trainer.done == options.max_steps
            if at_end or (options.eval_every and trainer.done % options.eval_every == 0):
                answer()
            if checkpoint is not None and not at_end and trainer.done % options.save_every == 0 and not ranks.rank:
                checkpoint.save(trainer.state())
    generating, training = totals["seconds_generating"], totals["seconds_training"]
    return {
        "steps": trainer.done,
        "beta": trainer.beta,
        "by_bin": trainer.roller.counts.state(),
        "parameters": sum(p.numel() for p in trainer.policy.model.parameters()),
        "seconds": time.monotonic() - began,
        "tokens_a_second_generating": totals["tokens_generated"] / generating if generating else 0.0,
        "tokens_a_second_training": totals["tokens_generated"] / training if training else 0.0,
        "precision": "bfloat16" if trainer.policy.autocast else "float32",
        "unshared": trainer.policy.unshared,
    }


def answers(trainer: GrpoTrainer, fixed: Prompts, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each fixed prompt: what the policy says now, its reward, and its KL from the first policy a token
    (k3). The random numbers are the same every time."""
    from kat.training.answers import divergence
    from kat.training.generation import PolicyGenerator

    options = trainer.options
    own = trainer.generator if isinstance(trainer.generator, PolicyGenerator) else PolicyGenerator(trainer.policy)
    seeds = [(options.seed, FIXED, 0, i) for i in range(len(fixed))]
    said: list[Completion] = [one for [one] in own.generate(fixed.trunks, 1, trainer.roller.sampling, seeds)]
    texts = [trainer.roller.text(one) for one in said]
    rewards = trainer.roller.reward(fixed.asked, texts)
    reference = trainer.reference or load_reference(options, device)
    far: dict[str, Any] = {"temperature": options.temperature, "budget": options.row_tokens}
    kls = divergence(trainer.policy, reference, fixed.trunks, said, **far)
    for one, text, reward, kl, told in zip(fixed.asked, texts, rewards.tolist(), kls.tolist(), said, strict=True):
        yield {
            "id": f"{one.context_id}@{trainer.done}",
            "step": trainer.done,
            "opening_id": one.opening_id,
            "bin": one.bin,
            "prompt": one.messages,
            "completion": text,
            "reward": reward,
            "kl": kl,
            "tokens": len(told.tokens),
            "ended": bool(told.ended),
        }


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder."""
    with saving(folder):
        policy.model.save_pretrained(folder)
        policy.loaded.tokenizer.save_pretrained(folder)
