"""TRL's DPO trainer with a weight for every pair. `kat.integrations.trl` is where to import it from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from trl import DPOTrainer

from kat.errors import MismatchError, OptionError
from kat.integrations._trl_pairs import PairWeighing
from kat.integrations.weights import WEIGHT

LOSSES_OF_PAIRS = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
)
"""The losses that are a mean over pairs of a term of that pair alone."""
_NO_SUM = {
    "aot": "it sorts the log ratios of a batch, so that a term mixes pairs",
    "aot_unpaired": "it sorts the log ratios of a batch, so that a term mixes pairs",
    "sft": "it is a mean over the tokens of a batch",
}


class WeighedMeans(TorchFunctionMode):
    """A context in which the first means of one number a pair, as many as `factors`, are Σ v·ℓ / B, with v the weights
    [B].

    TRL reduces each loss type by `per_sequence_loss.mean()`, adds those up with a factor each, and takes its metrics
    after it. Weighing that call leaves the formulas TRL's own, of whatever version. `check` notices a TRL whose loss is
    made otherwise.
    """

    def __init__(self, weight: torch.Tensor, factors: Sequence[float]):
        super().__init__()
        self.weight = weight
        self.factors = factors
        self.means: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.mean and len(args) == 1 and not kwargs and len(self.means) < len(self.factors):
            losses = args[0]
            if losses.requires_grad and losses.shape == self.weight.shape:
                self.means.append((self.weight.to(losses.device) * losses).mean())
                return self.means[-1]
        return func(*args, **(kwargs or {}))

    def check(self, loss: torch.Tensor) -> None:
        """Raise MismatchError if `loss` is not the weighed means times `factors`, beside what no mean is part of."""
        # The graph between is two operations a mean: nothing of the model is gone through.
        parts = torch.autograd.grad(loss, self.means, retain_graph=True, allow_unused=True) if self.means else ()
        slopes = [math.nan if part is None else part.item() for part in parts]
        if len(slopes) < len(self.factors) or not np.allclose(slopes, self.factors, rtol=1e-2):
            raise MismatchError(
                f"TRL's loss is not the sum of {len(self.factors)} means over pairs, so that weights would not be in "
                "it. kat is checked with TRL 1.16; type: pip install trl==1.16.0"
            )


class WeightedDPOTrainer(PairWeighing, DPOTrainer):
    """TRL's DPOTrainer with the loss Σ v·ℓ / B: ℓ the pair's loss by the config's `loss_type`, B the pairs of the
    batch over all devices and accumulated steps, v the pairs' weights.

    `pair_weights` is a file of `kat weigh-pairs` (or its run), what `kat.run(…, pair_weights=True).pair_weights`
    holds, or {pair id: weight}, joined by the data set's column `pair_id`; without, the data set's own column
    `weight` is taken. Weights are made mean 1 once, over the rows that train, never inside a batch: scaling them
    changes nothing, and with all equal the loss is the plain trainer's. Where the batches that are accumulated
    differ in size, at the end of a pass, they count equally, as in the plain trainer. Evaluation is unweighted, and
    so is the auxiliary loss of a mixture of experts.

    Loss types that are a mean over pairs are weighed, several with their `loss_weights` too; of "aot",
    "aot_unpaired" and "sft", alone or among others, no pair has a part of its own: an OptionError.

    Pairs that `pair_weights` say should train and that do not, because the data set lacks them or TRL leaves out
    what has no room for a completion in `max_length`, are a MismatchError past `allow_dropped` (a number, or "all" or
    True).
    """

    _left_out = "pairs whose prompt alone fills max_length"

    def _check_given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        config = kwargs.get("args") or (args[2] if len(args) > 2 else None)
        if config is None:
            return  # TRL makes its own, with the loss type sigmoid
        _check_losses([config.loss_type] if isinstance(config.loss_type, str) else config.loss_type)
        if config.use_liger_kernel and hasattr(DPOTrainer, "_compute_loss_liger"):
            raise OptionError(
                "use_liger_kernel=True: this version of TRL computes the loss of DPO inside the kernel, without "
                "weights. Give use_liger_kernel=False, or type: pip install --upgrade 'trl>=1.16'"
            )

    def _cut(self) -> int:
        names, most = ("prompt_ids", "chosen_ids", "rejected_ids"), self.args.max_length
        if most is None or not set(names) <= set(self.train_dataset.column_names):
            return 0
        rows = zip(*(map(len, self.train_dataset[name]) for name in names), strict=True)
        return sum(prompt + max(chosen, rejected) > most for prompt, chosen, rejected in rows)

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        if dataset is self.train_dataset:
            self._expected.dropped(dataset)  # raises before the reference reads every pair
        return super()._precompute_ref_logps(dataset, *args, **kwargs)

    def compute_ref_log_probs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        """Return the reference's log probabilities of chosen and rejected [B] each; weights are no input of it."""
        return super().compute_ref_log_probs(model, {key: value for key, value in inputs.items() if key != WEIGHT})

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the plain loss, with TRL's metrics of it; in training, each pair's part of it weighed.

        Raises MismatchError for a batch that trains without weights, or where TRL's loss is no mean over pairs.
        """
        weight = self._take_weights(inputs)
        if weight is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with WeighedMeans(weight, self.loss_weights) as means:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        means.check(result[0] if return_outputs else result)
        self._log_weights(weight)
        return result


def _check_losses(losses: Sequence[str]) -> None:
    """Raise OptionError for a loss type that is no mean over pairs, or not known to be."""
    for loss in losses:
        if loss not in LOSSES_OF_PAIRS:
            reason = _NO_SUM.get(loss, "it is not among those that are known")
            raise OptionError(
                f"loss_type {loss} cannot be weighed by pair: {reason}. Expected any of {', '.join(LOSSES_OF_PAIRS)}."
            )
