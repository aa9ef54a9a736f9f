"""Trainings by TRL's own trainers on pairs with a column `weight`, for the installed TRL and for a patched copy.

`python making_weight_column.py MODEL POLICY FOLDER` writes what a patched TRL does to FOLDER/results.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from making_trl import config, dpo_config, drawn, model_of, pairs, reference_of, tokenizer_of, trained
from making_trl import weighted as kat_reward
from making_trl import weighted_dpo as kat_dpo
from transformers import AutoModelForCausalLM
from trl import DPOTrainer, RewardTrainer

from kat.integrations._trl_dpo import LOSSES_OF_PAIRS

KINDS = ("reward", "dpo")
UNEVEN = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
"""Of 13 pairs: two steps of two batches each, of which the last has one pair."""


def plain(kind: str, folder: str, out: Path, dataset: Dataset, **more):
    """Return TRL's own trainer of a kind on a data set."""
    given = {"train_dataset": dataset, "processing_class": tokenizer_of(folder)}
    if kind == "reward":
        return RewardTrainer(model_of(folder), config(out, **more), **given)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return DPOTrainer(model, reference_of(folder), dpo_config(out, **more), **given)


def by_kat(kind: str, folder: str, out: Path, dataset: Dataset, **more):
    """Return kat's trainer of a kind, which takes the column `weight` of a data set."""
    return (kat_reward if kind == "reward" else kat_dpo)(folder, tokenizer_of(folder), out, None, dataset, **more)


def with_column(dataset: Dataset, weights) -> Dataset:
    return dataset.add_column("weight", [float(weight) for weight in weights])


def loss_and_gradients(trainer) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a trainer's loss of its first batch and the gradients of all parameters."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    return loss.detach(), list(torch.autograd.grad(loss, list(trainer.model.parameters())))


def refusal(make) -> str:
    """Return the type and the text of the error that a call ends with, or nothing."""
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def of_two_identical_pairs(kind: str, folder: str, out: Path) -> dict[str, list[torch.Tensor]]:
    """Return the gradients for a pair that stands twice, by the weights of the first and the second."""
    twice = Dataset.from_list([pairs(n=1)[0]] * 2)
    return {
        f"{first},{second}": loss_and_gradients(plain(kind, folder, out, with_column(twice, (first, second))))[1]
        for first, second in ((1, 1), (2, 1), (0, 1))
    }


def of_loss_types(folder: str, out: Path, dataset: Dataset) -> dict[str, tuple]:
    """Return, by loss type of DPO, loss and gradients of the patched trainer and of kat's."""
    trainers = [make("dpo", folder, out, dataset, label_smoothing=0.1) for make in (plain, by_kat)]
    results = {}
    for loss_type in LOSSES_OF_PAIRS:
        for trainer in trainers:
            trainer.loss_types = [loss_type]
        results[loss_type] = tuple(loss_and_gradients(trainer) for trainer in trainers)
    return results


def results_of(kind: str, folder: str, out: Path) -> dict:
    """Return what the patched trainer of a kind does, and kat's trainer beside it."""
    uneven, held = pairs(n=13), pairs(seed=9, n=8)
    weights = np.array(list(drawn().values()))
    weighed = with_column(pairs(), weights)
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 2}
    ahead = {"precompute_ref_log_probs": True} if kind == "dpo" else {"center_rewards_coefficient": 0.1}
    scorer = plain(kind, folder, out, weighed)
    return {
        "without": trained(plain(kind, folder, out, uneven, **UNEVEN)),
        "ones": trained(plain(kind, folder, out, with_column(uneven, np.ones(13)), **UNEVEN)),
        "patched": trained(plain(kind, folder, out, weighed, max_steps=2)),
        "patched in small batches": trained(plain(kind, folder, out, weighed, **small)),
        "kat": trained(by_kat(kind, folder, out, weighed, max_steps=2)),
        "patched, option": trained(plain(kind, folder, out, weighed, max_steps=2, **ahead)),
        "kat, option": trained(by_kat(kind, folder, out, weighed, max_steps=2, **ahead)),
        "identical": of_two_identical_pairs(kind, folder, out),
        "evaluated": [scorer.evaluate(data)["eval_loss"] for data in (held, with_column(held, range(8)))],
        "negative": refusal(plain(kind, folder, out, with_column(pairs(n=2), (1, -1))).train),
        "missing": refusal(plain(kind, folder, out, pairs(n=2).add_column("weight", [1.0, None])).train),
    }


def main(model: str, policy: str, out: Path) -> None:
    torch.set_num_threads(1)
    disable_progress_bars()
    import trl

    results = {"trl": trl.__file__}
    for kind, folder in zip(KINDS, (model, policy), strict=True):
        results[kind] = results_of(kind, folder, out / "trained")
    weighed = with_column(pairs(), drawn().values())
    results["loss types"] = of_loss_types(policy, out / "trained", weighed)
    results["refused"] = {
        str(loss): refusal(lambda loss=loss: plain("dpo", policy, out / "trained", weighed, loss_type=loss))
        for loss in ("aot", "aot_unpaired", "sft", ["sigmoid", "sft"])
    }
    torch.save(results, out / "results.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
