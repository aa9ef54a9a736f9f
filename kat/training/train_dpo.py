"""Train a policy by DPO in memory: from pairs, or tokens, and weights to a model that answers."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.artifacts import json_bytes, manifest
from kat.data.in_memory import checked_pairs
from kat.errors import OptionError, OutputError
from kat.models.load import load_model
from kat.parameters import with_options
from kat.records import Pair
from kat.terminal import note
from kat.training.checkpoint import Checkpoint
from kat.training.plan import Plan
from kat.training.steps import token_counts
from kat.training.tokens import TokenPairs, left_out
from kat.training.train import Scored, precision_of, run_steps, weighed_tokens
from kat.training.train_grpo import save_policy
from kat.training_config import DpoOptions

if TYPE_CHECKING:
    from kat.training.implicit import Reference
    from kat.training.policy import Policy
    from kat.training.ranks import Ranks
    from kat.training.scoring import ScoreCheckpoint


@dataclass(frozen=True, eq=False)
class TrainedDpoPolicy:
    """A policy, what its training was like (`facts`), and the numbers of every step (`log`)."""

    policy: Policy
    facts: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    options: DpoOptions = field(default_factory=DpoOptions)

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as a Hugging Face folder."""
        self.policy.merge()
        save_policy(self.policy, Path(folder))


def train_dpo(
    pairs: Iterable[Pair],
    weights: Mapping[str, float] | Sequence[float] | None = None,
    policy: str = DpoOptions.policy,
    *,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> TrainedDpoPolicy:
    """Train a policy by DPO on pairs (`kat.read_pairs`) with weights: {pair id: v}, one a pair, or none.

    The reference is the policy as it starts; its log-probabilities are computed once, before the first step. `options`
    are the fields of `kat.training_config.DpoOptions`. Weights are made mean 1 over the pairs that train; with a
    mapping, pairs that it does not name do not train.

    Raises InputError for no pairs or weights of another number, MismatchError for a mapping that names none of the
    pairs, ModelError for a model that cannot be loaded, OptionError for an unknown option or one out of range.
    """
    chosen = with_options(DpoOptions(), {"policy": policy} | options, train_dpo)
    if chosen.select == "best":
        raise OptionError("select best wants pairs that do not train; give fit_dpo a selection of them.")
    listed = list(checked_pairs(pairs, "train_dpo"))
    loaded = load_dpo_policy(chosen, device)
    data, kept = weighed_tokens(loaded, listed, weights, chosen)
    log: list[dict[str, Any]] = []
    needed = Plan(data.prompt, kept, chosen).pairs()
    reference = reference_of(loaded, data, chosen, needed=needed, progress=progress)
    facts = fit_dpo(loaded, data, kept, chosen, reference=reference, on_step=log.append, progress=progress)
    return TrainedDpoPolicy(loaded, facts | left_out(data, listed, weights, "train-dpo"), log, chosen)


def load_dpo_policy(options: DpoOptions, device: str) -> Policy:
    """Load the policy that training starts from, in float32."""
    from kat.training.policy import Policy

    loaded = load_model(
        options.policy, kind="causal", device=device, dtype="float32", allow_network=options.allow_network
    )
    policy = Policy(loaded, autocast=precision_of(options, str(loaded.device)) == "bfloat16")
    if policy.unshared is not None:
        note(f"train-dpo  each completion is computed with its prompt, which is slower: {policy.unshared}")
    return policy


def reference_of(
    policy: Policy,
    data: TokenPairs,
    options: DpoOptions,
    *,
    needed: np.ndarray | None = None,
    kept: ScoreCheckpoint | None = None,
    ranks: Ranks | None = None,
    progress: bool = False,
) -> Reference:
    """Return what the policy, as it is now, thinks of all completions: each prompt once, each distinct completion once.

    Of pairs that are not among the `needed` ones, by number, nothing is computed: NaN. With `kept`, rows that an
    earlier run computed are not computed again. Several `ranks` share the rows out.
    """
    from kat.packing.products import SharedWeights
    from kat.training.implicit import Reference, SequenceLogProbs
    from kat.training.scoring import rewards_of

    scorer = SequenceLogProbs(policy, per_token=options.per_token)
    told: dict[str, Any] = {"kept": kept, "ranks": ranks, "progress": progress, "what": "reference"}
    rows = np.arange(len(data)) if needed is None else needed
    sides = np.full((2, len(data)), np.nan, np.float32)
    if len(rows):
        with SharedWeights():  # cast once, not once a row
            sides[:, rows] = rewards_of(scorer, data.select(rows), options.row_tokens, **told)
    return Reference(*sides)


def kept_reference(
    policy: Policy,
    data: TokenPairs,
    options: DpoOptions,
    cache: Path,
    made_from: Mapping[str, str],
    *,
    needed: np.ndarray,
    ranks: Ranks | None = None,
    progress: bool = False,
) -> Reference:
    """Return `reference_of` from a folder of its own in `cache`, after computing what is not there.

    The folder is named by what decides the numbers: `made_from`, the hashes of the policy and its settings, the
    precision, the rows and the tokens of the needed pairs. Rank 0 alone reads and writes it; while another process
    computes there it is waited for. Raises OutputError if it cannot be written.
    """
    from kat.training.rewarders import branches_digest, branches_of
    from kat.training.scoring import ScoreCheckpoint

    told: dict[str, Any] = {"needed": needed, "ranks": ranks, "progress": progress}
    if not len(needed) or (ranks is not None and ranks.rank):
        return reference_of(policy, data, options, **told)
    computed = {
        "per_token": options.per_token,
        "precision": "bfloat16" if policy.autocast else "float32",
        "row_tokens": options.row_tokens,
    }
    tokens = branches_digest(data.prompts, branches_of(data, needed))
    asked = manifest("reference", {**made_from, "tokens": tokens}, computed)
    folder = cache / hashlib.sha256(json_bytes(asked)).hexdigest()[:16]
    for place in (cache, folder):
        if os.path.lexists(place) and not place.is_dir():
            raise OutputError(
                f"{place} is no folder; what the reference thinks of completions is kept there. Move it away, or name "
                "an --out elsewhere."
            )
    waiting = f"train-dpo  waits for another training, which has the same reference read the same pairs ({folder})"
    with ScoreCheckpoint(folder, asked, waiting=waiting) as kept:
        return reference_of(policy, data, options, kept=kept, **told)


def fit_dpo(
    policy: Policy,
    data: TokenPairs,
    weights: np.ndarray,
    options: DpoOptions,
    *,
    reference: Reference,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    progress: bool = False,
    ranks: Ranks | None = None,
    selection: tuple[TokenPairs, Reference] | None = None,
) -> dict[str, Any]:
    """Train the policy on pairs with weights [P], taken as they are, and return what the training was like.

    `reference` holds the log-probabilities of these pairs before training; the others are as in
    `kat.training.train.fit`.
    """
    from kat.training.implicit import ImplicitRewards, SequenceLogProbs
    from kat.training.loop import Trainer
    from kat.training.losses import PreferenceLoss, unweighted
    from kat.training.ranks import OneRank
    from kat.training.reward import choose_trainable

    names = choose_trainable(policy, options.train, options.lora_rank)
    named = dict(policy.model.named_parameters())
    began, ranks = time.monotonic(), ranks or OneRank()
    scorer = SequenceLogProbs(policy, per_token=options.per_token)
    rewarder = ImplicitRewards(scorer, data, reference, options.beta, options.row_tokens, ranks=ranks)
    groups = [{"params": [named[name] for name in names], "lr": options.learning_rate}]
    loss = PreferenceLoss(options.loss, options.beta, options.label_smoothing)
    trainer = Trainer(rewarder, groups, data, weights, options, ranks=ranks, loss=loss)

    def selection_loss() -> float:
        assert selection is not None
        scored = implicit_scores(policy, *selection, options=options)
        return unweighted(loss, scored.chosen, scored.rejected, selection[0].margins)

    run_steps(
        trainer,
        name="train-dpo",
        checkpoint=checkpoint,
        on_step=on_step,
        progress=progress,
        selection_loss=None if selection is None else selection_loss,
    )
    trainer.take_best()
    steps = trainer.plan.steps()[: trainer.progress.step]
    return trainer.facts() | {
        "trained_parameters": sum(named[name].numel() for name in names),
        "parameters": sum(parameter.numel() for parameter in named.values()),
        "tokens": token_counts(data, steps, shared=policy.unshared is None),
        "seconds": time.monotonic() - began,
        "precision": "bfloat16" if policy.autocast else "float32",
        "unshared": policy.unshared,
    }


def implicit_scores(policy: Policy, data: TokenPairs, reference: Reference, *, options: DpoOptions) -> Scored:
    """Return the implicit rewards of pairs: β · (log π − log π_ref), of a token if `options.per_token`."""
    now = reference_of(policy, data, options)  # what the policy thinks by now
    sides = (options.beta * (after - before) for after, before in zip(now, reference, strict=True))
    return Scored(data.ids, *sides)
