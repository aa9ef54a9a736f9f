"""TRL's reward trainer with a weight for every pair. `kat.integrations.trl` is where to import it from."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer

from kat.errors import InputError
from kat.integrations._trl_pairs import PairWeighing


class WeightedRewardTrainer(PairWeighing, RewardTrainer):
    """TRL's RewardTrainer with the loss Σ v·ℓ / B: ℓ = −log σ(reward(chosen) − reward(rejected)), B the pairs of
    the batch over all devices and accumulated steps, v the pairs' weights.

    `pair_weights` is a file of `kat weigh-pairs` (or its run), what `kat.run(…, pair_weights=True).pair_weights`
    holds, or {pair id: weight}, joined by the data set's column `pair_id`; without, the data set's own column
    `weight` is taken. TRL itself drops such a column twice. Weights are made mean 1 once, over the rows that train,
    never inside a batch: scaling them changes nothing, and with all equal the loss is the plain trainer's.
    Evaluation is unweighted.

    Pairs that `pair_weights` say should train and that do not, because the data set lacks them or TRL leaves out
    what is longer than `max_length`, are a MismatchError past `allow_dropped` (a number, or "all" or True).
    """

    _left_out = "pairs longer than max_length"

    def _check_given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _check_margins(kwargs["train_dataset"])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the plain loss, with TRL's metrics of it; in training, each pair's part of it weighed.

        Raises MismatchError for a batch that trains without weights.
        """
        weight = self._take_weights(inputs)
        margin = inputs.get("margin")
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if weight is not None:
            chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
            loss = self._weighed_loss(chosen, rejected, margin, weight)
        return (loss, outputs) if return_outputs else loss

    def _weighed_loss(
        self, chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss, a scalar, of rewards, margins and weights [B]."""
        weight = weight.to(chosen.device)
        difference = chosen - rejected if margin is None else chosen - rejected - margin
        loss = (weight * -torch.nn.functional.logsigmoid(difference)).mean()
        if self.args.center_rewards_coefficient is not None:
            # It keeps rewards near 0, of whatever pair: no preference is weighed in it.
            loss += self.args.center_rewards_coefficient * torch.mean((chosen + rejected) ** 2)
        self._log_weights(weight)
        return loss


def _check_margins(dataset: Any) -> None:
    """Raise InputError for rows without a margin among rows that have one, which TRL fails at without naming them."""
    if "margin" in dataset.column_names and (missing := [i for i, m in enumerate(dataset["margin"]) if m is None]):
        raise InputError(
            f"{len(missing):,} of {len(dataset):,} rows have no margin, first row {missing[0]}, and TRL takes margins "
            'for all rows or none. Fill the column, or leave it out: train_dataset.remove_columns("margin").'
        )
