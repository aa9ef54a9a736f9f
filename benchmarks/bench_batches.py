"""Accuracy on prompts that did not train, after the same pairs in batches of different kinds.

    python benchmarks/bench_batches.py --pairs PAIRS.jsonl [--n 1000 --train last:2 --seeds 3]

A step of B pairs that holds whole prompts, which is what makes a shared trunk worth it, holds fewer prompts than one of
B pairs drawn at random. Three ways through one pass over the same pairs, at the same rates: pairs at random, each by
itself (kat's plain path: nothing is shared); whole prompts, as many pairs a step; whole prompts, as many prompts a step
as random pairs have.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
from encode_machine import header

from kat import read_pairs
from kat.training.tokens import TokenPairs
from kat.training.train import fit, load_reward_model, score_tokens, tokens_of
from kat.training_config import RewardOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--train", default="last:2")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    told = parser.parse_args()
    options = RewardOptions(
        model=told.model, train=told.train, max_len=1024, batch_size=told.batch, long_completions="drop"
    )
    data = tokens_of(load_reward_model(options, "cpu"), read_pairs(told.pairs, "all"), options)
    train, validation = parts(data, told.n, told.validation)
    prompts = len(np.unique(train.prompt))
    larger = round(told.batch * len(train) / prompts)
    arms = {
        "random pairs, nothing shared": (apart(train), told.batch),
        "whole prompts, as many pairs a step": (train, told.batch),
        "whole prompts, as many prompts a step": (train, larger),
    }
    print(f"\n{header()}\n\n{told.model}, {told.train}: {len(train)} pairs of {prompts} prompts train, ")
    print(f"{len(validation)} pairs of other prompts validate, one pass, {told.seeds} seeds\n")
    print("| batches | pairs a step | steps | accuracy, each seed | mean | log-loss, mean | seconds, mean |")
    print("|---|---:|---:|---|---:|---:|---:|")
    for name, (pairs, batch) in arms.items():
        runs = [one_run(replace(options, batch_size=batch, seed=seed), pairs, validation) for seed in range(told.seeds)]
        each = ", ".join(f"{100 * run['accuracy']:.1f}" for run in runs)
        means = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        print(
            f"| {name} | {batch} | {means['steps']:.0f} | {each} | {100 * means['accuracy']:.1f} | "
            f"{means['loss']:.4f} | {means['seconds']:.0f} |",
            flush=True,
        )
    sampling = 100 * (0.25 / len(validation)) ** 0.5
    print(f"\nOne standard deviation of an accuracy by the choice of validation pairs: {sampling:.1f} points.")


def parts(data: TokenPairs, train: int, validation: int) -> tuple[TokenPairs, TokenPairs]:
    """Return pairs of whole prompts, drawn: at most so many that train, and of other prompts that validate."""
    order = np.random.default_rng(0).permutation(len(data.prompts))
    rows: list[list[int]] = [[], []]
    of_prompt: dict[int, list[int]] = {}
    for row, prompt in enumerate(data.prompt.tolist()):
        of_prompt.setdefault(prompt, []).append(row)
    for prompt in order.tolist():
        own = of_prompt.get(prompt, [])
        place = 0 if len(rows[0]) + len(own) <= train else 1
        if place == 0 or len(rows[1]) + len(own) <= validation:
            rows[place] += own
    first, second = (data.select(np.asarray(sorted(part))) for part in rows)
    return first, second


def apart(data: TokenPairs) -> TokenPairs:
    """Return the same pairs, each the only one of a prompt of its own, without a trunk."""
    from kat.packing.trunks import Prompt

    prompts = []
    for prompt, chosen, rejected in zip(data.prompt, data.chosen, data.rejected, strict=True):
        given = data.prompts[prompt]
        prompts.append(
            Prompt(given.trunk[:0], [np.concatenate([given.trunk, given.branches[b]]) for b in (chosen, rejected)])
        )
    zero = np.zeros(len(data), np.int64)
    return replace(data, prompts=prompts, prompt=np.arange(len(data)), chosen=zero, rejected=zero + 1)


def one_run(options: RewardOptions, train: TokenPairs, validation: TokenPairs) -> dict[str, Any]:
    """Train a model from its start, and measure it."""
    model = load_reward_model(options, "cpu")
    began = time.monotonic()
    facts = fit(model, train, np.ones(len(train)), options)
    seconds = time.monotonic() - began
    scored = score_tokens(model, validation)
    return {"accuracy": scored.accuracy, "loss": scored.loss, "steps": facts["steps"], "seconds": seconds}


if __name__ == "__main__":
    main()
