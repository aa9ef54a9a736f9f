"""Train a reward model in memory: from pairs, or tokens, and weights to a model that scores."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.array_records import name_of, number
from kat.atomic import saving
from kat.data.in_memory import checked_pairs
from kat.devices import multiplies_bfloat16, pick_device, torch_threads
from kat.errors import InputError, MismatchError, OptionError
from kat.grpo_config import GrpoOptions
from kat.models.load import load_model
from kat.pair_weights.weigh import normalised
from kat.parameters import with_options
from kat.records import Pair
from kat.terminal import bar_off, escaped, note
from kat.training.checkpoint import Checkpoint, restored
from kat.training.scored import Scored
from kat.training.steps import token_counts
from kat.training.tokens import TokenPairs, left_out, tell_unread, tokenize_pairs
from kat.training_config import PairTrainingOptions, RewardOptions

if TYPE_CHECKING:
    from kat.training.loop import Rewarder, Trainer
    from kat.training.policy import Policy
    from kat.training.ranks import Ranks
    from kat.training.reward import RewardModel


@dataclass(frozen=True, eq=False, repr=False)
class TrainedRewardModel:
    """A reward model, what its training was like (`facts`), and the numbers of every step (`log`)."""

    model: RewardModel
    facts: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    options: RewardOptions = RewardOptions()

    def __repr__(self) -> str:
        return f"TrainedRewardModel({escaped(name_of(self.options.model))}, {number(len(self.log), 'step')})"

    def score(self, pairs: Iterable[Pair]) -> Scored:
        """Return the rewards of pairs (`kat.read_pairs`), cut to the model's length as in training.

        Pairs with a completion that is too long have no reward, and are left out; how many is said, and how many
        prompts lost their beginning.
        """
        options = replace(self.options, long_completions="drop")
        data = tokens_of(self.model, pairs, options, identical="keep")
        tell_unread("score", data)
        return score_tokens(self.model, data, options.row_tokens)

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as a Hugging Face folder."""
        save_model(self.model, Path(folder))


def train_reward_model(
    pairs: Iterable[Pair],
    weights: Mapping[str, float] | Sequence[float] | None = None,
    model: str = RewardOptions.model,
    *,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> TrainedRewardModel:
    """Train a reward model on pairs (`kat.read_pairs`) with weights: {pair id: v}, one a pair, or none.

    `options` are the fields of `kat.training_config.RewardOptions`. Weights are made mean 1 over the pairs that train;
    with a mapping, pairs that it does not name do not train.

    Raises InputError for no pairs or weights of another number, MismatchError for a mapping that names none of the
    pairs, ModelError for a model that cannot be loaded, OptionError for an unknown option or one out of range.

    >>> pairs = list(kat.read_pairs("pairs.jsonl"))[:64]
    >>> trained = kat.train_reward_model(pairs, model="minilm", train="head", max_steps=2)
    >>> trained.score(pairs[:3]).chosen.shape
    (3,)
    """
    chosen = with_options(RewardOptions(), {"model": model} | options, train_reward_model)
    if chosen.select == "best":
        raise OptionError("select best holds groups of a run's pairs out; use kat train-rm, or give fit a selection.")
    listed = list(checked_pairs(pairs, "train_reward_model"))
    loaded = load_reward_model(chosen, device)
    data, kept = weighed_tokens(loaded, listed, weights, chosen)
    log: list[dict[str, Any]] = []
    facts = fit(loaded, data, kept, chosen, on_step=log.append, progress=progress)
    return TrainedRewardModel(loaded, facts | left_out(data, listed, weights, "train-rm"), log, chosen)


def weighed_tokens(
    model: RewardModel | Policy,
    pairs: Iterable[Pair],
    weights: Mapping[str, float] | Sequence[float] | None,
    options: PairTrainingOptions,
) -> tuple[TokenPairs, np.ndarray]:
    """Return the pairs that train as tokens, and their weights [P], of mean 1: see `train_reward_model`.

    Raises InputError for weights of another number, MismatchError for a mapping that names none of the pairs.
    """
    listed = list(pairs)
    if isinstance(weights, Mapping):
        listed = [pair for pair in listed if pair.id in weights]
        if not listed:
            raise MismatchError("The weights name none of the pairs. They are joined by pair id.")
        given: Sequence[float] = [float(weights[pair.id]) for pair in listed]
    else:
        given = [1.0] * len(listed) if weights is None else weights
    if len(given) != len(listed):
        raise InputError(f"There are {len(listed):,} pairs and {len(given):,} weights.")
    values: dict[str, float] = {}
    # Pairs are told in their order, so that the next one's weight is that of the number of those before it.
    data = tokens_of(model, listed, options, seen=lambda name, _: values.update({name: float(given[len(values)])}))
    return data, normalised(np.asarray([values[i] for i in data.ids]))


def load_reward_model(options: RewardOptions, device: str) -> RewardModel:
    """Load the model that training starts from, in float32, and let gradients through what trains."""
    from kat.training.reward import RewardModel

    loaded = load_model(
        options.model, kind="reward", device=device, dtype="float32", allow_network=options.allow_network
    )
    model = RewardModel(loaded, autocast=precision_of(options, str(loaded.device)) == "bfloat16")
    if model.unshared is not None and model.causal:
        note(f"train-rm  each completion is computed with its prompt, which is slower: {model.unshared}")
    return model


def precision_of(options: PairTrainingOptions | GrpoOptions, device: str) -> str:
    """Return what `auto` comes to on a device: bfloat16 where it multiplies that itself."""
    if options.precision != "auto":
        return options.precision
    return "bfloat16" if multiplies_bfloat16(pick_device(device)) else "float32"


def tokens_of(
    model: RewardModel | Policy,
    pairs: Iterable[Pair],
    options: PairTrainingOptions,
    *,
    identical: str = "drop",
    seen: Callable[[str, Pair], object] | None = None,
) -> TokenPairs:
    """Return pairs as tokens of a model, cut to the options' limits, and the model's own if that is smaller."""
    most = model.loaded.most
    max_len = min(options.max_len, most) if most else options.max_len
    return tokenize_pairs(
        pairs,
        model.loaded.chat,
        max_len=max_len,
        min_prompt=min(options.min_prompt, max_len - 1),
        long_completions=options.long_completions,
        identical=identical,
        seen=seen,
        model_limit=most,
    )


def fit(
    model: RewardModel,
    data: TokenPairs,
    weights: np.ndarray,
    options: RewardOptions,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    progress: bool = False,
    ranks: Ranks | None = None,
    selection: TokenPairs | None = None,
) -> dict[str, Any]:
    """Train the model on pairs with weights [P], taken as they are, and return what the training was like. With a
    `checkpoint` the state is kept there every `save_every` steps, and a state that is there is gone on from.
    `on_step` gets the numbers of every step that is taken now, and may add to them. With several `ranks` every one of
    them calls this with the same arguments; rank 0 alone keeps the state. With `selection`, pairs that do not train,
    the parameters of the lowest unweighted loss on them are those that are kept in the end.
    """
    from kat.training.features import branch_features
    from kat.training.loop import Trainer
    from kat.training.losses import bradley_terry, unweighted
    from kat.training.ranks import OneRank
    from kat.training.reward import choose_trainable
    from kat.training.rewarders import KeptFeatures, WholeModel, branches_of

    names = choose_trainable(model, options.train, options.lora_rank)
    named = dict(model.model.named_parameters())
    head = [name for name in names if name.startswith(f"{model.head_name}.")]
    groups = [{"params": [named[name] for name in head], "lr": options.learning_rate}]
    if below := [name for name in names if name not in head]:
        groups.append({"params": [named[name] for name in below], "lr": options.backbone_lr})
    began = time.monotonic()
    ranks = ranks or OneRank()
    whole: Rewarder = WholeModel(model, data, options.row_tokens, ranks)
    loss = partial(bradley_terry, center=options.center_rewards)
    trainer = Trainer(whole, groups, data, weights, options, ranks=ranks, loss=loss)
    if not below:
        needed = branches_of(data, trainer.plan.pairs())
        if ranks.rank:
            needed = needed[:1]  # rank 0 computes the head's steps by itself
        features = branch_features(model, data, needed, options.row_tokens, progress=progress)
        trainer.rewarder = KeptFeatures(model, data, needed, features, ranks)
    elif options.activation_cache is not None:
        trainer.rewarder = _kept_activations(model, data, options, ranks)

    def selection_loss() -> float:
        assert selection is not None
        scored = score_tokens(model, selection, options.row_tokens)
        return unweighted(bradley_terry, scored.chosen, scored.rejected, selection.margins)

    run_steps(
        trainer,
        checkpoint=checkpoint,
        on_step=on_step,
        progress=progress,
        selection_loss=None if selection is None else selection_loss,
    )
    trainer.take_best()
    return trainer.facts() | {
        "trained_parameters": sum(named[name].numel() for name in names),
        "parameters": sum(parameter.numel() for parameter in named.values()),
        "tokens": _tokens(trainer, kept_features=not below, shared=model.unshared is None),
        "seconds": time.monotonic() - began,
        "precision": "bfloat16" if model.autocast else "float32",
        "unshared": model.unshared,
    }


def run_steps(
    trainer: Trainer,
    *,
    name: str = "train-rm",
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    progress: bool = False,
    selection_loss: Callable[[], float] | None = None,
) -> None:
    """Take the steps that are left, from the state of a `checkpoint` if there is one, and keep it every `save_every`.
    With `selection_loss`, measured every `eval_every` steps by rank 0, the trainer keeps the best parameters."""
    from tqdm import tqdm

    options, ranks = trainer.options, trainer.ranks
    if restored(trainer, checkpoint, ranks, trainer.parameters[0].device):
        note(f"{name}  goes on at step {trainer.progress.step:,} of {trainer.total:,}")
    with (
        torch_threads(),
        tqdm(
            total=trainer.total,
            initial=trainer.progress.step,
            unit="step",
            desc=name,
            disable=bar_off(progress),
        ) as bar,
    ):
        for numbers in trainer.run():
            bar.update()
            bar.set_postfix(loss=f"{numbers['loss']:.3f}", accuracy=f"{numbers['accuracy']:.2f}", refresh=False)
            at_end = numbers["step"] == trainer.total
            if selection_loss is not None and not ranks.rank and (at_end or numbers["step"] % options.eval_every == 0):
                numbers["selection_loss"] = selection_loss()
                trainer.compare(numbers["selection_loss"])
            if on_step is not None:
                on_step(numbers)
            due = at_end or numbers["step"] % options.save_every == 0  # what follows the end takes time, too
            if checkpoint is not None and due and not ranks.rank:
                checkpoint.save(trainer.state())


def _kept_activations(model: RewardModel, data: TokenPairs, options: RewardOptions, ranks: Ranks) -> Rewarder:
    """Return what rewards through the last blocks; rank 0 computes what is not kept yet, and the others wait."""
    from kat.training.activations import Activations, KeptActivations

    assert options.activation_cache is not None
    blocks = int(options.train.removeprefix("last:"))
    told: tuple[Any, ...] = (options.activation_cache, model, data, blocks, options.row_tokens)
    kept = Activations(*told) if not ranks.rank else None
    ranks.told(None)
    return KeptActivations(model, kept or Activations(*told), blocks, options.row_tokens, ranks)


def _tokens(trainer: Trainer, *, kept_features: bool, shared: bool) -> dict[str, int]:
    """Return the tokens of the training: with features kept, each branch once, whatever the steps. A model whose
    trunks are not `shared` reads each branch's trunk with it."""
    from kat.training.rewarders import branches_of, tokens_of_branches

    steps = trainer.plan.steps()[: trainer.progress.step]
    counts = token_counts(trainer.data, steps, shared=shared)
    if kept_features:
        needed = branches_of(trainer.data, np.unique(np.concatenate(steps)))
        counts["tokens"] = tokens_of_branches(trainer.data.prompts, needed, shared=shared)
    return counts


def score_tokens(model: RewardModel, data: TokenPairs, budget: int = RewardOptions.row_tokens) -> Scored:
    """Return the rewards of pairs as tokens, every branch of every prompt computed once."""
    from kat.training.scoring import rewards_of

    return Scored(data.ids, *rewards_of(model, data, budget))


def scorer_of(model: RewardModel, data: TokenPairs, options: RewardOptions) -> Callable[[], Scored]:
    """Return what scores these pairs whenever it is called; where the head alone trains, from features kept once."""
    if options.train != "head":
        return lambda: score_tokens(model, data, options.row_tokens)
    import torch

    from kat.training.features import branch_features
    from kat.training.rewarders import KeptFeatures, branches_of

    needed = branches_of(data)
    kept = KeptFeatures(model, data, needed, branch_features(model, data, needed, options.row_tokens, progress=True))

    def score() -> Scored:
        [(_, rewards)] = kept.parts(np.arange(len(data)))
        with torch.no_grad():
            chosen, rejected = (side.cpu().numpy() for side in rewards())
        return Scored(data.ids, chosen, rejected)

    return score


def save_model(model: RewardModel, folder: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder that `AutoModelForSequenceClassification` loads."""
    model.merge()
    module = model.model
    module.config.num_labels = 1
    tokenizer = copy.deepcopy(model.loaded.tokenizer)
    if (template := model.loaded.chat.template_ending_in_end()) is not None:
        tokenizer.chat_template = template
    with saving(folder):
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
