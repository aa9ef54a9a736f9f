"""TRL's reward trainer with a weight for every pair. `kat.integrations.trl` is where to import it from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from trl import RewardTrainer

from kat.errors import InputError, MismatchError, OptionError
from kat.integrations.weights import WEIGHT, pair_weights_of, with_weights
from kat.terminal import show

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import RewardConfig


class WeightCollator:
    """Any collator of preference pairs, with the rows' weights [B] float32 beside what it makes."""

    def __init__(self, inner: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.inner = inner

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        weights = [example.get(WEIGHT) for example in examples]
        batch = self.inner([{k: v for k, v in example.items() if k != WEIGHT} for example in examples])
        if all(weight is not None for weight in weights):
            batch[WEIGHT] = torch.tensor(weights, dtype=torch.float32)
        return batch


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

    args: RewardConfig
    _signature_columns: Any  # transformers starts it at None, and then it is a list
    model: torch.nn.Module
    train_dataset: Dataset

    def __init__(
        self,
        *args: Any,
        pair_weights: str | Path | Mapping[str, float] | None = None,
        allow_dropped: int | str = 0,
        **kwargs: Any,
    ):
        allowed = _allowed(allow_dropped)
        weights = None if pair_weights is None else pair_weights_of(pair_weights)
        dataset = kwargs.get("train_dataset")
        _check_dataset(dataset)
        _check_margins(dataset)
        kwargs["train_dataset"] = before = with_weights(dataset, weights)
        super().__init__(*args, **kwargs)
        self.data_collator: Any = WeightCollator(self.data_collator)
        self.dropped = _dropped(before, self.train_dataset, weights)
        _check_dropped(self.dropped, allowed, len(before))
        self.weight_scale = _scale(np.asarray(self.train_dataset[WEIGHT], np.float64))

    def _set_signature_columns_if_needed(self) -> None:
        # Columns that are not in the model's signature are removed before collation, and the weights are no input.
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        if WEIGHT not in columns:
            self._signature_columns = [*columns, WEIGHT]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the plain loss, with TRL's metrics of it; in training, each pair's part of it weighed."""
        weight = inputs.pop(WEIGHT, None)
        margin = inputs.get("margin")
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if weight is not None and self.model.training:
            chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
            loss = self._weighed_loss(chosen, rejected, margin, weight)
        return (loss, outputs) if return_outputs else loss

    def _weighed_loss(
        self, chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss, a scalar, of rewards, margins and weights [B]."""
        weight = weight.to(chosen.device) * self.weight_scale
        difference = chosen - rejected if margin is None else chosen - rejected - margin
        loss = (weight * -torch.nn.functional.logsigmoid(difference)).mean()
        if self.args.center_rewards_coefficient is not None:
            # It keeps rewards near 0, of whatever pair: no preference is weighed in it.
            loss += self.args.center_rewards_coefficient * torch.mean((chosen + rejected) ** 2)
        self._metrics["train"]["mean_weight"].append(self.accelerator.gather_for_metrics(weight.mean()).mean().item())
        return loss


def _check_dataset(dataset: Any) -> None:
    if dataset is None:
        raise OptionError("WeightedRewardTrainer needs train_dataset=, by name.")
    if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
        raise OptionError(
            "WeightedRewardTrainer reads a datasets.Dataset, not an iterable one: weights are "
            "made mean 1 over its rows."
        )


def _check_margins(dataset: Any) -> None:
    """Raise InputError for rows without a margin among rows that have one, which TRL fails at without naming them."""
    if "margin" in dataset.column_names and (missing := [i for i, m in enumerate(dataset["margin"]) if m is None]):
        raise InputError(
            f"{len(missing):,} of {len(dataset):,} rows have no margin, first row {missing[0]}, and TRL takes margins "
            'for all rows or none. Fill the column, or leave it out: train_dataset.remove_columns("margin").'
        )


def _dropped(before: Dataset, after: Dataset, weights: Mapping[str, float] | None) -> list[str]:
    """Return the pairs that should train and do not: ids, or how many there are where rows have none."""
    if "pair_id" not in before.column_names:
        return [f"one of {len(before):,} rows"] * (len(before) - len(after))
    training = {str(pair_id) for pair_id in after["pair_id"]}
    weighed = weights if weights is not None else [str(pair_id) for pair_id in before["pair_id"]]
    return [pair_id for pair_id in weighed if pair_id not in training]


def _allowed(given: int | str) -> float:
    """Return how many pairs may be dropped. Raises OptionError for neither a number from 0 up nor "all"."""
    if given is True or given == "all":
        return np.inf
    if not isinstance(given, int) or given < 0:
        raise OptionError(f'allow_dropped is {given!r}; expected a whole number from 0 up, or "all".')
    return int(given)


def _check_dropped(dropped: list[str], allowed: float, rows: int) -> None:
    if not dropped:
        return
    if len(dropped) > allowed:
        names = ", ".join(dropped[:3]) + (" …" if len(dropped) > 3 else "")
        raise MismatchError(
            f"{len(dropped):,} weighed pairs do not train: {names}. The data set has {rows:,} rows, and TRL leaves out "
            f"pairs longer than max_length. Raise max_length, or give allow_dropped={len(dropped)}."
        )
    show(f"weights   {len(dropped):,} weighed pairs do not train; the mean is 1 over those that do")


def _scale(weights: np.ndarray) -> float:
    """Return what makes the mean of the weights 1; exactly 1 where it is, so that rounding changes no plain loss."""
    if not len(weights):
        raise InputError("No pair is left to train.")
    mean = float(weights.mean())
    if not mean > 0:
        raise InputError("All weights are 0.")
    return 1.0 if abs(mean - 1) < 1e-6 else 1 / mean
