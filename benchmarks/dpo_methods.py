"""One way of training by DPO, in a process of its own: `python dpo_methods.py METHOD PAIRS.npz OPTIONS`.

Reads pairs as tokens, warms up, and for every line of input trains the model from its start, answering with numbers as
JSON: seconds of reference and training together and of each, and the loss of the first step and of all. Loading is
not in them.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reward_methods import answer_turns, drawn, load_pairs, token_pairs

KAT = {"kat prompt trunk": "prompt", "kat pair trunk": "pair", "kat packed": "none"}
"""What shares a trunk, by method."""
WEIGHTS, BATCHES = ("autocast", "bfloat16"), (1, 4, 8)
"""Of TRL: float32 weights with bfloat16 products, or bfloat16 weights; pairs a batch."""
RATE = 5e-6
WARM = 8
"""Pairs of a warm-up."""


def trl_name(weights: str, batch: int, reference: str) -> str:
    """Return a method of TRL: the reference's log-probabilities "ahead" of the training, or "beside" it."""
    return f"trl {weights} {batch} {reference}"


def kat_method(method: str, pairs: list[Any], options: dict[str, Any]) -> Callable[..., dict[str, float]]:
    """Return what computes a policy's reference and trains it for one pass."""
    import torch

    from kat.training.train_dpo import fit_dpo, load_dpo_policy, reference_of
    from kat.training_config import DpoOptions

    chosen = DpoOptions(
        policy=options["model"],
        train="all",
        batch_size=options["batch"],
        row_tokens=options["row_tokens"],
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
    )
    share = KAT[method]
    if share == "none":
        pairs = drawn(pairs, options["trl_pairs"])
    torch.set_num_threads(options["threads"])
    policy = load_dpo_policy(chosen, "cpu")
    start = Path(options["scratch"]) / f"{method}.pt"
    torch.save(policy.model.state_dict(), start)

    def run(warm_up: bool = False) -> dict[str, float]:
        gc.collect()
        data = token_pairs(pairs[:WARM] if warm_up else pairs, share)
        policy.model.load_state_dict(torch.load(start, mmap=True))
        log: list[dict[str, Any]] = []
        before = time.perf_counter()
        reference = reference_of(policy, data, chosen)
        between = time.perf_counter()
        fit_dpo(policy, data, np.ones(len(data), np.float32), chosen, reference=reference, on_step=log.append)
        after = time.perf_counter()
        losses = [numbers["loss"] for numbers in log]
        return told(len(data), between - before, after - between, losses)

    return run


def trl_method(method: str, pairs: list[Any], options: dict[str, Any]) -> Callable[..., dict[str, float]]:
    """Return what trains a model by TRL's trainer on its share of the pairs: activations kept, batches of like
    lengths."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from kat.models.sources import resolve

    _, weights, batch, reference = method.split()
    torch.set_num_threads(options["threads"])
    disable_progress_bars()
    folder = resolve(options["model"]).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = trl_rows(drawn(pairs, options["trl_pairs"]))
    arguments = DPOConfig(
        output_dir=options["scratch"],
        per_device_train_batch_size=int(batch),
        gradient_accumulation_steps=max(options["batch"] // int(batch), 1),
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        precompute_ref_log_probs=reference == "ahead",
        bf16=weights == "autocast",
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        length_column_name="length",
        train_sampling_strategy="group_by_length",
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )

    class OfTokens(DPOTrainer):
        """TRL's trainer, given tokens, that says how long its reference takes ahead of the training."""

        seconds = 0.0

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *given: Any) -> Any:
            before = time.perf_counter()
            try:
                return super()._precompute_ref_logps(*given)
            finally:
                self.seconds = time.perf_counter() - before

    runs = iter(range(sys.maxsize))

    def run(warm_up: bool = False) -> dict[str, float]:
        gc.collect()
        number = next(runs)  # a reference that an earlier run left on disk is that of other rows then
        dataset = Dataset.from_list([row | {"run": number} for row in (rows[:WARM] if warm_up else rows)])
        kind = torch.bfloat16 if weights == "bfloat16" else torch.float32
        trainer = OfTokens(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=kind),
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        # Else it drops what it groups by.
        trainer._signature_columns = [*rows[0], "ref_chosen_logps", "ref_rejected_logps"]
        before = time.perf_counter()
        trainer.train()
        after = time.perf_counter()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return told(len(dataset), trainer.seconds, after - before, losses)

    return run


def trl_rows(pairs: list[Any]) -> list[dict[str, Any]]:
    """Return pairs as rows of TRL's trainer, the longest first: the reference is read in their order."""
    rows = [
        {"prompt_ids": t.tolist(), "chosen_ids": c.tolist(), "rejected_ids": r.tolist()} | {"length": len(t) + longer}
        for t, c, r in pairs
        for longer in [max(len(c), len(r))]
    ]
    return sorted(rows, key=lambda row: -row["length"])


def told(pairs: int, reference: float, training: float, losses: list[float]) -> dict[str, float]:
    """Return the numbers of a run."""
    return {
        "seconds": reference + training,
        "pairs": pairs,
        "reference": reference,
        "training": training,
        "first_loss": losses[0],
        "loss": statistics.mean(losses),
    }


def main() -> None:
    method, path, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    run = (trl_method if method.startswith("trl") else kat_method)(method, load_pairs(path), options)
    answer_turns(run, warm_up=options["warm_up"])


if __name__ == "__main__":
    main()
