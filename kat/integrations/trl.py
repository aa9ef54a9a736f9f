"""TRL's trainers with weights where they belong: `WeightedRewardTrainer` and `DensityGRPOTrainer`.

    from kat.integrations.trl import WeightedRewardTrainer

The classes are made when they are first asked for, so that nothing here loads TRL or torch before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.errors import InputError, MismatchError, MissingExtraError, OptionError

if TYPE_CHECKING:
    from kat.integrations.sampling import DensityRepeatSampler, OpeningOrder

WEIGHT = "weight"


def __getattr__(name: str):
    makers = {"WeightedRewardTrainer": _reward_trainer, "DensityGRPOTrainer": _grpo_trainer}
    if name not in makers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = makers[name]()
    found.__module__, found.__qualname__ = __name__, name
    return found


def pair_weights_of(source: str | Path | Mapping[str, float]) -> dict[str, float]:
    """{pair id: weight} of the pairs that train, from a file of `kat weigh-pairs` or a mapping.

    Raises InputError for a weight that is not a finite number from 0 up.
    """
    if isinstance(source, Mapping):
        found = {str(name): float(value) for name, value in source.items()}
    else:
        from kat.pair_weights.storage import read_pair_weights

        found = read_pair_weights(source).training_weights()
    for name, value in found.items():
        if not np.isfinite(value) or value < 0:
            raise InputError(f"The weight of pair {name} is {value}; expected a finite number from 0 up.")
    return found


def opening_weights_of(source: str | Path | Mapping[str, float]) -> dict[str, float]:
    """{opening id: w} from a folder of weights (or a run that holds one), a file of `kat weigh-pairs`, or a mapping."""
    if isinstance(source, Mapping):
        return {str(name): float(value) for name, value in source.items()}
    path = Path(source)
    if path.is_dir():
        from kat.artifacts import load_array, load_ids

        folder = path / "density" if (path / "density").is_dir() else path
        values = np.asarray(load_array(folder / "density_weights.npy"), np.float64)
        return dict(zip(load_ids(folder), values.tolist(), strict=True))
    from kat.pair_weights.storage import read_pair_weights

    table = read_pair_weights(path)
    rows = table.split == "train"
    return dict(zip(table.opening_id[rows].tolist(), table.w[rows].tolist(), strict=True))


def with_weights(dataset, weights: Mapping[str, float] | None):
    """The data set with a `weight` column, by the id in its `pair_id` column.

    Raises MismatchError naming the first row without a weight, InputError if there is nothing to join by or a weight of
    the data set's own is not a finite number from 0 up.
    """
    names = list(dataset.column_names or [])
    if weights is None:
        if WEIGHT not in names:
            raise InputError(f"The data set has no column {WEIGHT}, and no pair_weights were given. {_REMEDY}")
        for row, value in enumerate(dataset[WEIGHT]):
            if value is None or not np.isfinite(value) or value < 0:
                raise InputError(
                    f"The data set's weight in row {row} is {value}; expected a finite number from 0 up. "
                    "Only pairs that train have one: leave the others out."
                )
        return dataset
    if "pair_id" not in names:
        raise InputError(f"The data set has no column pair_id to join weights by; it has {', '.join(names)}. {_REMEDY}")
    ids = [str(one) for one in dataset["pair_id"]]
    if missing := [(row, one) for row, one in enumerate(ids) if one not in weights]:
        row, one = missing[0]
        raise MismatchError(
            f"{len(missing):,} rows of the data set have no weight, first row {row} with pair id {one}. "
            "Take the rows that train (split is train), or weigh these pairs too."
        )
    if len(set(ids)) < len(ids):
        raise MismatchError("The data set holds a pair id twice; each pair has one weight. See kat export-weights.")
    if WEIGHT in names:
        dataset = dataset.remove_columns(WEIGHT)
    return dataset.add_column(WEIGHT, [weights[one] for one in ids])


_REMEDY = "kat export-weights RUN --to trl writes a data set that has both."


class WeightCollator:
    """Any collator of preference pairs, with the rows' weights [B] beside what it makes."""

    def __init__(self, inner: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.inner = inner

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        weights = [example.get(WEIGHT) for example in examples]
        batch = self.inner([{k: v for k, v in example.items() if k != WEIGHT} for example in examples])
        if all(weight is not None for weight in weights):
            batch[WEIGHT] = torch.tensor(weights, dtype=torch.float32)
        return batch


@cache
def _reward_trainer() -> type:
    import torch

    RewardTrainer = _imported("RewardTrainer")

    class WeightedRewardTrainer(RewardTrainer):
        """TRL's RewardTrainer with the loss Σ v·ℓ / B: ℓ = −log σ(reward(chosen) − reward(rejected)), B the pairs of
        the batch over all devices and accumulated steps, v the pairs' weights.

        `pair_weights` is a file of `kat weigh-pairs` or {pair id: weight}, joined by the data set's column `pair_id`;
        without, the data set's own column `weight` is taken. TRL itself drops such a column twice. Weights are made
        mean 1 once, over the rows that train, never inside a batch: scaling them changes nothing, and with all equal
        the loss is the plain trainer's. Evaluation is unweighted.

        Pairs that `pair_weights` say should train and that do not, because the data set lacks them or TRL leaves out
        what is longer than `max_length`, are a MismatchError past `allow_dropped` (a number, or "all" or True).
        """

        def __init__(self, *args: Any, pair_weights=None, allow_dropped: int | str = 0, **kwargs: Any):
            allowed = _allowed(allow_dropped)
            weights = None if pair_weights is None else pair_weights_of(pair_weights)
            dataset = kwargs.get("train_dataset")
            if dataset is None:
                raise OptionError("WeightedRewardTrainer needs train_dataset=, by name.")
            if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
                raise OptionError(
                    "WeightedRewardTrainer reads a datasets.Dataset, not an iterable one: weights are "
                    "made mean 1 over its rows."
                )
            kwargs["train_dataset"] = before = with_weights(dataset, weights)
            super().__init__(*args, **kwargs)
            self.data_collator = WeightCollator(self.data_collator)
            self.dropped = _dropped(before, self.train_dataset, weights)
            _judge_dropped(self.dropped, allowed, len(before))
            self.weight_scale = _scale(np.asarray(self.train_dataset[WEIGHT], np.float64))

        def _set_signature_columns_if_needed(self):
            super()._set_signature_columns_if_needed()
            if WEIGHT not in self._signature_columns:
                self._signature_columns = [*self._signature_columns, WEIGHT]

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            """The plain loss, and metrics of it, by TRL; in training, each pair's part of it weighed."""
            weight = inputs.pop(WEIGHT, None)
            margin = inputs.get("margin")
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            if weight is not None and self.model.training:
                chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
                loss = self._weighed(chosen, rejected, margin, weight)
            return (loss, outputs) if return_outputs else loss

        def _weighed(self, chosen, rejected, margin, weight):
            weight = weight.to(chosen.device) * self.weight_scale
            difference = chosen - rejected if margin is None else chosen - rejected - margin
            loss = (weight * -torch.nn.functional.logsigmoid(difference)).mean()
            if self.args.center_rewards_coefficient is not None:
                # It keeps rewards near 0, of whatever pair: no judgement is weighed in it.
                loss += self.args.center_rewards_coefficient * torch.mean((chosen + rejected) ** 2)
            self._metrics["train"]["mean_weight"].append(
                self.accelerator.gather_for_metrics(weight.mean()).mean().item()
            )
            return loss

    return WeightedRewardTrainer


def _dropped(before, after, weights: Mapping[str, float] | None) -> list[str]:
    """The pairs that should train and do not: ids, or how many there are where rows have none."""
    if "pair_id" not in before.column_names:
        return [f"one of {len(before):,} rows"] * (len(before) - len(after))
    there = {str(one) for one in after["pair_id"]}
    wanted = weights if weights is not None else [str(one) for one in before["pair_id"]]
    return [one for one in wanted if one not in there]


def _allowed(given: int | str) -> float:
    """How many pairs may be dropped. Raises OptionError for what is neither a number from 0 up nor "all"."""
    if given is True or given == "all":
        return np.inf
    if not isinstance(given, int) or given < 0:
        raise OptionError(f'allow_dropped is {given!r}; expected a whole number from 0 up, or "all".')
    return int(given)


def _judge_dropped(dropped: list[str], allowed: float, rows: int) -> None:
    if not dropped:
        return
    if len(dropped) > allowed:
        names = ", ".join(dropped[:3]) + (" …" if len(dropped) > 3 else "")
        raise MismatchError(
            f"{len(dropped):,} weighed pairs do not train: {names}. The data set has {rows:,} rows, and TRL leaves out "
            f"pairs longer than max_length. Raise max_length, or give allow_dropped={len(dropped)}."
        )
    print(f"weights   {len(dropped):,} weighed pairs do not train; the mean is 1 over those that do")


def _scale(weights: np.ndarray) -> float:
    """What makes the mean of the weights 1; exactly 1 where it is, so that rounding changes no plain loss."""
    if not len(weights):
        raise InputError("No pair is left to train.")
    mean = float(weights.mean())
    if not mean > 0:
        raise InputError("All weights are 0.")
    return 1.0 if abs(mean - 1) < 1e-6 else 1 / mean


@cache
def _grpo_trainer() -> type:
    GRPOTrainer = _imported("GRPOTrainer")

    class DensityGRPOTrainer(GRPOTrainer):
        """TRL's GRPOTrainer that asks rare prompts more often: openings are drawn by systematic sampling in proportion
        to their weights, and the generations of a prompt stay together.

        `opening_weights` is a folder of weights, a file of `kat weigh-pairs`, or {opening id: weight}. The data set
        names openings in `opening_id`; without that column, the id is computed from the first user message of
        `prompt`. A weight multiplied into the reward would cancel in the group's normalisation; it is the sampling
        that is weighed. Every pass is another draw, the same on every rank. Rows are joined when training begins, from
        the data set that trains then: filtering or reordering it before does no harm.
        """

        def __init__(self, *args: Any, opening_weights, **kwargs: Any):
            dataset = kwargs.get("train_dataset")
            if dataset is None or not hasattr(dataset, "__len__"):
                raise OptionError("DensityGRPOTrainer needs train_dataset=, by name, a datasets.Dataset with a length.")
            self.opening_weights = opening_weights_of(opening_weights)
            self._ordered(dataset, 0)  # notices what is wrong before a model is loaded
            super().__init__(*args, **kwargs)
            self.order = self._ordered(self.train_dataset, self.args.seed)

        def _ordered(self, dataset, seed: int) -> OpeningOrder:
            from kat.integrations.sampling import OpeningOrder

            return OpeningOrder(openings_of(dataset), self.opening_weights, seed)

        def _get_train_sampler(self, dataset=None) -> DensityRepeatSampler:
            from kat.integrations.sampling import DensityRepeatSampler

            rows = len(self.train_dataset)
            if dataset is not None and len(dataset) != rows:
                raise MismatchError(f"TRL draws from {len(dataset):,} rows, and the training data set has {rows:,}.")
            # TRL's `dataset` may have lost its columns; these are the same rows with them.
            self.order = self._ordered(self.train_dataset, self.args.seed)
            return DensityRepeatSampler(
                self.order,
                rows,
                mini_repeat_count=self.num_generations,
                batch_size=self.args.generation_batch_size // self.num_generations,
                repeat_count=self.num_iterations * self.args.steps_per_generation,
            )

    return DensityGRPOTrainer


def openings_of(dataset) -> list[str]:
    """The opening id of every row. Raises InputError for a row without a user message."""
    if "opening_id" in (dataset.column_names or []):
        return [str(one) for one in dataset["opening_id"]]
    from kat.data.openings import opening_id

    found = []
    for row, prompt in enumerate(dataset["prompt"]):
        text = prompt
        if not isinstance(prompt, str):
            text = next((m["content"] for m in prompt if m["role"] == "user"), None)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Row {row} of the data set has no user message; give it an opening_id.")
        found.append(opening_id(text))
    return found


def _imported(name: str) -> type:
    import importlib

    try:
        return getattr(importlib.import_module("trl"), name)
    except ImportError as error:
        raise MissingExtraError(f'TRL cannot be loaded ({error}). Type: pip install "kat[trl]"') from error
