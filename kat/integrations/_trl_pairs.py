"""What TRL's trainers of weighed pairs have in common: the join, the weights of a batch, and the pairs that are left
out. `kat.integrations.trl` is where to import them from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Trainer

from kat.errors import InputError, MismatchError, OptionError
from kat.integrations.weights import WEIGHT, pair_weights_of, with_weights
from kat.terminal import note, show

if TYPE_CHECKING:
    from datasets import Dataset

    from kat.pair_weights.storage import PairWeights


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


@dataclass(frozen=True)
class ExpectedPairs:
    """What should train: `rows` of the data set as given, `names` the weighed pairs (None where rows have no id), and
    how many of them may be missing."""

    rows: int
    names: list[str] | None
    allowed: float
    left_out: str
    """The pairs that TRL leaves out, in words."""

    def dropped(self, dataset: Dataset) -> list[str]:
        """Return the pairs that should train and are not in the data set: ids, or how many there are where rows have
        none. Raises MismatchError where that is more than allowed."""
        if self.names is None:
            dropped = [f"one of {self.rows:,} rows"] * (self.rows - len(dataset))
        else:
            training = {str(pair_id) for pair_id in dataset["pair_id"]}
            dropped = [pair_id for pair_id in self.names if pair_id not in training]
        if len(dropped) > self.allowed:
            names = ", ".join(dropped[:3]) + (" …" if len(dropped) > 3 else "")
            absent = 0 if self.names is None else max(len(self.names) - self.rows, 0)
            why = f" The data set lacks {absent:,} of them: it has {self.rows:,} rows." if absent else ""
            if len(dropped) > absent:
                why += f" TRL leaves out {self.left_out}: raise max_length."
            raise MismatchError(
                f"{len(dropped):,} weighed pairs do not train: {names}.{why} Or give allow_dropped={len(dropped)}."
            )
        return dropped


class PairWeighing(Trainer):
    """A trainer that takes a weight for every pair; it stands before TRL's trainer among the bases of a class.

    `pair_weights` is a file of `kat weigh-pairs` (or its run), what `kat.run(…, pair_weights=True).pair_weights`
    holds, or {pair id: weight}, joined by the data set's column `pair_id`; without, the data set's own column
    `weight` is taken.
    """

    args: Any  # the config of TRL's trainer
    _signature_columns: Any  # transformers starts it at None, and then it is a list
    _metrics: Any  # of TRL's trainer
    model: torch.nn.Module
    train_dataset: Dataset
    _left_out: str

    def __init__(
        self,
        *args: Any,
        pair_weights: str | Path | Mapping[str, float] | PairWeights | None = None,
        allow_dropped: int | str = 0,
        **kwargs: Any,
    ):
        allowed = _allowed(allow_dropped)
        weights = None if pair_weights is None else pair_weights_of(pair_weights)
        _check_dataset(kwargs.get("train_dataset"), type(self).__name__)
        self._check_given(args, kwargs)
        kwargs["train_dataset"] = dataset = with_weights(kwargs["train_dataset"], weights)
        names = None
        if "pair_id" in dataset.column_names:
            names = list(weights) if weights is not None else [str(pair_id) for pair_id in dataset["pair_id"]]
        self._expected = ExpectedPairs(len(dataset), names, allowed, self._left_out)
        super().__init__(*args, **kwargs)
        self.data_collator: Any = WeightCollator(self.data_collator)
        self.dropped = self._expected.dropped(self.train_dataset)
        if self.dropped:
            show(f"weights   {len(self.dropped):,} weighed pairs do not train; the mean is 1 over those that do")
        if cut := self._cut():
            note(f"weights   TRL cuts tokens off {cut:,} of {len(self.train_dataset):,} pairs: see max_length")
        self.weight_scale = _scale(np.asarray(self.train_dataset[WEIGHT], np.float64))

    def _check_given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise a KatError for what the trainer was given and cannot weigh, before a model is loaded."""

    def _cut(self) -> int:
        """Count the pairs of which the collator leaves tokens out."""
        return 0

    def _set_signature_columns_if_needed(self) -> None:
        # Columns that are not in the model's signature are removed before collation, and the weights are no input.
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        if WEIGHT not in columns:
            self._signature_columns = [*columns, WEIGHT]

    def _take_weights(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        """Take the weights out of a batch and return them [B] float32, mean 1 over the rows that train; None in
        evaluation. Raises MismatchError in training for a batch without."""
        weight = inputs.pop(WEIGHT, None)
        if not self.model.training:
            return None
        if weight is None:
            raise MismatchError(
                f"A batch that trains has no weights, so that {type(self).__name__} would train without them. "
                "Make another trainer where its train_dataset or data_collator is another than it was made with."
            )
        return weight * self.weight_scale

    def _log_weights(self, weight: torch.Tensor) -> None:
        self._metrics["train"]["mean_weight"].append(self.accelerator.gather_for_metrics(weight.mean()).mean().item())


def _check_dataset(dataset: Any, trainer: str) -> None:
    if dataset is None:
        raise OptionError(f"{trainer} needs train_dataset=, by name.")
    if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
        raise OptionError(
            f"{trainer} reads a datasets.Dataset, not an iterable one: weights are made mean 1 over its rows."
        )


def _allowed(given: int | str) -> float:
    """Return how many pairs may be dropped. Raises OptionError for neither a number of 0 or more nor "all"."""
    if given is True or given == "all":
        return np.inf
    if not isinstance(given, int) or given < 0:
        raise OptionError(f'allow_dropped is {given!r}; expected a whole number of 0 or more, or "all".')
    return int(given)


def _scale(weights: np.ndarray) -> float:
    """Return what makes the mean of the weights 1; exactly 1 where it is, so that rounding changes no plain loss."""
    if not len(weights):
        raise InputError("No pair is left to train.")
    mean = float(weights.mean())
    if not mean > 0:
        raise InputError("All weights are 0.")
    return 1.0 if abs(mean - 1) < 1e-6 else 1 / mean
