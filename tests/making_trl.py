"""Small data sets, weights and trainers for the tests of TRL's trainers, also for the processes that these start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, RewardConfig

from kat.integrations.trl import WeightedDPOTrainer, WeightedRewardTrainer

N = 24


def tokenizer_of(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "w97"
    return tokenizer


def model_of(folder):
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    return model


def words(rng, n: int) -> str:
    return " ".join(f"w{i}" for i in rng.integers(0, 96, n))


def pairs(seed: int = 0, n: int = N) -> Dataset:
    rng = np.random.default_rng(seed)
    rows = [
        {"prompt": f"{words(rng, 4)} ", "chosen": words(rng, rng.integers(2, 9)), "rejected": words(rng, 5)}
        for _ in range(n)
    ]
    return Dataset.from_list([row | {"pair_id": f"p{i}"} for i, row in enumerate(rows)])


def drawn(seed: int = 0, n: int = N) -> dict[str, float]:
    values = np.exp(np.random.default_rng(seed).normal(size=n))
    return {f"p{i}": float(v) for i, v in enumerate(values / values.mean())}


def config(tmp_path: Path, kind=RewardConfig, **more):
    options = {"per_device_train_batch_size": 8, "report_to": [], "use_cpu": True, "bf16": False, "save_strategy": "no"}
    options |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "logging_steps": 1, "optim": "sgd"}
    options |= {"max_grad_norm": 0.0, "gradient_checkpointing": False, "weight_decay": 0.0, "disable_tqdm": True}
    return kind(str(tmp_path), **options | more)


def trained(trainer):
    """Losses as logged, and the parameters after it."""
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def weighted(folder, tokenizer, tmp_path, weights, dataset=None, **more):
    options = {"allow_dropped": more.pop("allow_dropped")} if "allow_dropped" in more else {}
    data = pairs() if dataset is None else dataset
    return WeightedRewardTrainer(
        model_of(folder),
        config(tmp_path, **more),
        train_dataset=data,
        processing_class=tokenizer,
        pair_weights=weights,
        **options,
    )


def policy_of(folder, target: Path) -> str:
    """A folder with a whole causal model, head and all: TRL loads the reference from it once more."""
    torch.manual_seed(2)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(target)
    tokenizer_of(folder).save_pretrained(target)
    return str(target)


def reference_of(policy: str):
    """A reference that is not the policy, so that the first loss is not log 2 for every pair."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def dpo_config(tmp_path: Path, loss_type="sigmoid", **more) -> DPOConfig:
    options = {"loss_type": loss_type, "beta": 0.5, "learning_rate": 0.01, "precompute_ref_batch_size": 4}
    if "exo_pair" in loss_type or "robust" in loss_type:
        options["label_smoothing"] = 0.1
    return config(tmp_path, DPOConfig, **options | more)


def weighted_dpo(policy, tokenizer, tmp_path, weights, dataset=None, *, allow_dropped=0, **more):
    return WeightedDPOTrainer(
        AutoModelForCausalLM.from_pretrained(policy),
        reference_of(policy),
        dpo_config(tmp_path, **more),
        train_dataset=pairs() if dataset is None else dataset,
        processing_class=tokenizer,
        pair_weights=weights,
        allow_dropped=allow_dropped,
    )
