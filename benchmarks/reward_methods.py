"""One way of training a reward model, in a process of its own: `python reward_methods.py METHOD PAIRS.npz OPTIONS`.

Reads pairs as tokens, warms up, and then trains once for every line of input, answering with seconds as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("kat prompt trunk", "kat pair trunk", "kat packed", "kat padded", "trl", "trl, grouped by length")


def load_pairs(path: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return trunk, chosen and rejected token ids of every pair."""
    with np.load(path, allow_pickle=False) as file:
        flat, bounds = file["tokens"], file["bounds"]
    parts = np.split(flat, bounds[1:-1])
    return [(parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts), 3)]


def save_pairs(path: Path, pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Write pairs for `load_pairs`."""
    parts = [np.asarray(part, np.int32) for pair in pairs for part in pair]
    np.savez(path, tokens=np.concatenate(parts), bounds=np.concatenate([[0], np.cumsum([len(p) for p in parts])]))


def token_pairs(pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], share: str) -> Any:
    """Return the pairs as kat trains them: trunks shared by a prompt, by a pair, or by nothing."""
    from kat.packing.trunks import Prompt
    from kat.training.tokens import TokenPairs

    numbers: dict[bytes, int] = {}
    trunks: list[np.ndarray] = []
    branches: list[dict[bytes, int]] = []
    columns: list[tuple[int, int, int]] = []
    for i, (trunk, chosen, rejected) in enumerate(pairs):
        key = trunk.tobytes() if share == "prompt" else str(i).encode()
        if key not in numbers:
            numbers[key] = len(trunks)
            trunks.append(trunk if share != "none" else trunk[:0])
            branches.append({})
        own = branches[numbers[key]]
        sides = (chosen, rejected) if share != "none" else (np.concatenate([trunk, s]) for s in (chosen, rejected))
        columns.append((numbers[key], *(own.setdefault(side.tobytes(), len(own)) for side in sides)))
    prompts = [
        Prompt(trunk, [np.frombuffer(b, np.int32) for b in own]) for trunk, own in zip(trunks, branches, strict=True)
    ]
    prompt, chosen_of, rejected_of = np.asarray(columns, np.int64).T
    ids = [str(i) for i in range(len(pairs))]
    return TokenPairs(prompts, prompt, chosen_of, rejected_of, ids, np.zeros(len(pairs), np.float32))


def drawn(pairs: list[Any], count: int) -> list[Any]:
    """Return some of the pairs: what shares nothing takes as long for a pair whichever others there are."""
    return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:count].tolist()]


def kat_method(method: str, pairs: list[Any], options: dict[str, Any]) -> Callable[..., int]:
    """Return what trains on all pairs once, and gives the number of pairs."""
    import torch

    from kat.training.loop import Trainer
    from kat.training.reward import choose_trainable
    from kat.training.rewarders import WholeModel
    from kat.training.train import load_reward_model
    from kat.training_config import RewardOptions

    share = {"kat prompt trunk": "prompt", "kat pair trunk": "pair"}.get(method, "none")
    chosen = RewardOptions(
        model=options["model"], train=options["train"], batch_size=options["batch"], row_tokens=options["row_tokens"]
    )
    model = load_reward_model(chosen, "cpu")
    if method == "kat padded":
        model.base.set_attn_implementation("sdpa")
        model.unpacked = model.unshared = "to compare"
    if share == "none":
        pairs = drawn(pairs, options["trl_pairs"])
    data = token_pairs(pairs, share)
    names, named = choose_trainable(model, options["train"]), dict(model.model.named_parameters())
    groups = [{"params": [named[name] for name in names], "lr": 1e-6}]
    trainer = Trainer(WholeModel(model, data, chosen.row_tokens), groups, data, np.ones(len(data)), chosen)
    torch.set_num_threads(options["threads"])
    steps = trainer.plan.of_pass(0)

    def run(warm_up: bool = False) -> int:
        for pairs_of_step in steps[:1] if warm_up and share == "none" else steps:
            trainer.step(pairs_of_step, chosen.batch_size)
        return len(data)

    return run


def trl_method(method: str, pairs: list[Any], options: dict[str, Any]) -> Callable[..., int]:
    """Return what trains TRL's trainer on its share of the pairs: bfloat16, no checkpointing of activations."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    from kat.models.sources import resolve
    from kat.training.reward import choose_trainable
    from kat.training.train import load_reward_model
    from kat.training_config import RewardOptions

    torch.set_num_threads(options["threads"])
    some = drawn(pairs, options["trl_pairs"])
    rows = [{"chosen_ids": [*t, *c], "rejected_ids": [*t, *r]} for t, c, r in ([x.tolist() for x in p] for p in some)]
    for row in rows:  # TRL cannot infer lengths of pairs by itself
        row["length"] = max(map(len, row.values()))
    folder = resolve(options["model"]).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    like = load_reward_model(RewardOptions(model=options["model"], train=options["train"]), "cpu")
    names = set(choose_trainable(like, options["train"]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    del like
    arguments = RewardConfig(
        output_dir=options["scratch"],
        per_device_train_batch_size=options["trl_batch"],
        gradient_accumulation_steps=max(options["batch"] // options["trl_batch"], 1),
        num_train_epochs=1,
        learning_rate=1e-6,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        length_column_name="length",
        train_sampling_strategy="group_by_length" if "grouped" in method else "random",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )

    def run(warm_up: bool = False) -> int:
        dataset = Dataset.from_list(rows[:8] if warm_up else rows)
        trainer = RewardTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=dataset)
        trainer._signature_columns = ["chosen_ids", "rejected_ids", "length"]  # else it drops what it groups by
        began.append(time.perf_counter())
        trainer.train()
        return len(dataset)

    return run


began: list[float] = []
"""When a method says that its preparations are over: they are no training."""


def main() -> None:
    method, path, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    pairs = load_pairs(path)
    run = (trl_method if method.startswith("trl") else kat_method)(method, pairs, options)

    def timed(warm_up: bool = False) -> dict[str, float]:
        began.clear()
        before = time.perf_counter()
        count = run(warm_up=warm_up)
        return {"seconds": time.perf_counter() - (began[0] if began else before), "pairs": count}

    answer_turns(timed, warm_up=options["warm_up"])


def answer_turns(run: Callable[..., dict[str, float]], *, warm_up: bool) -> None:
    """Run once for every line of input and answer with its numbers, "seconds" first, and the peak of memory."""
    if warm_up:
        run(warm_up=True)
    print("ready", flush=True)
    for _ in sys.stdin:
        numbers = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(numbers | {"peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main()
