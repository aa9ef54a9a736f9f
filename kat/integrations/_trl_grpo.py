"""TRL's GRPO trainer that draws openings by weight. `kat.integrations.trl` is where to import it from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import GRPOTrainer

from kat.density.opening_order import OpeningOrder
from kat.errors import MismatchError, OptionError
from kat.integrations.sampling import DensityRepeatSampler
from kat.integrations.weights import check_prompts, opening_weights_of, openings_of

if TYPE_CHECKING:
    from datasets import Dataset


class DensityGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer that asks rare prompts more often: openings are drawn by systematic sampling in proportion
    to their weights, and the generations of a prompt stay together.

    `opening_weights` is a folder of weights, a file of `kat weigh-pairs`, or {opening id: weight}. The data set
    names openings in `opening_id`; without that column, the id is computed from the first user message of
    `prompt`. A weight multiplied into the reward would cancel in the group's normalisation; it is the sampling
    that is weighed. The contexts of an opening take turns; a prompt that stands twice is a MismatchError. Every pass is
    another draw, the same on every rank. Rows are joined when training begins, from the data set that trains then:
    filtering or reordering it before does no harm.
    """

    args: Any  # a GRPOConfig, whose counts are no longer None once it is made
    train_dataset: Dataset
    num_generations: int

    def __init__(self, *args: Any, opening_weights: str | Path | Mapping[str, float], **kwargs: Any):
        dataset = kwargs.get("train_dataset")
        if dataset is None or not hasattr(dataset, "__len__"):
            raise OptionError("DensityGRPOTrainer needs train_dataset=, by name, a datasets.Dataset with a length.")
        self.opening_weights = opening_weights_of(opening_weights)
        check_prompts(dataset)
        if not (kwargs.get("tools") or kwargs.get("environment_factory")):
            _check_tools(dataset)
        self._ordered(dataset, 0)  # notices what is wrong before a model is loaded
        super().__init__(*args, **kwargs)
        self.order = self._ordered(self.train_dataset, self.args.seed)

    def _ordered(self, dataset: Dataset, seed: int) -> OpeningOrder:
        return OpeningOrder(openings_of(dataset), self.opening_weights, seed)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        # A DensityRepeatSampler is no torch Sampler: a data loader takes whatever has a length and yields row numbers.
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


def _check_tools(dataset: Dataset) -> None:
    """Raise OptionError for prompts with tools, which TRL would leave out without a word."""
    if "tools" in (dataset.column_names or []) and (count := sum(bool(tools) for tools in dataset["tools"])):
        raise OptionError(
            f"{count:,} prompts have tools in the column tools, which TRL's GRPOTrainer does not read. Give it the "
            'functions as tools=[…], or leave the tools out: train_dataset.remove_columns("tools").'
        )
