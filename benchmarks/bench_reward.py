"""Pairs a second of reward-model training: kat against TRL's RewardTrainer, and kat without what makes it fast.

    python benchmarks/bench_reward.py --pairs PAIRS.jsonl [--train all --repeats 3]

Same backbone, trainable parameters, token ids and precision (bfloat16 by autocast) for all. Whole prompts are drawn
until there are `--n` pairs; TRL, and kat without shared trunks, train on `--trl_pairs` of these, drawn. Every method
lives in a process of its own, loaded and warmed up before the clock, and the methods take turns; one process computes
at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from encode_machine import cores, header
from reward_methods import METHODS, save_pairs, token_pairs

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--train", default="all")
    parser.add_argument("--n", type=int, default=256, help="pairs that kat trains on")
    parser.add_argument("--trl_pairs", type=int, default=48)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--trl_batch", type=int, default=4)
    parser.add_argument("--row_tokens", type=int, default=4096)
    parser.add_argument("--max_len", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--no_warm_up", action="store_true")
    parser.add_argument("--apart", action="store_true", help="a process for each turn: memory need not hold all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pairs.npz"
        pairs = drawn_pairs(options)
        save_pairs(path, pairs)
        told = vars(options) | {"threads": cores(), "scratch": scratch, "warm_up": not options.no_warm_up}
        results = by_turns(path, told)
    print(f"\n{header()}\n\n{Path(options.pairs).name}, {options.model}, {options.train} trains, {len(pairs)} pairs\n")
    print(table(results, pairs, options.model, all_train=options.train == "all"))


def drawn_pairs(options: argparse.Namespace) -> list[Any]:
    """Return trunk, chosen and rejected token ids of all pairs of prompts that are drawn, `n` pairs at most."""
    from kat import read_pairs
    from kat.training.train import load_reward_model, tokens_of
    from kat.training_config import RewardOptions

    chosen = RewardOptions(model=options.model, max_len=options.max_len, long_completions="drop")
    model = load_reward_model(chosen, "cpu")
    return whole_prompts(tokens_of(model, read_pairs(options.pairs, "all"), chosen), options.n)


def whole_prompts(data: Any, count: int) -> list[Any]:
    """Return trunk, chosen and rejected token ids of all pairs of prompts that are drawn, `count` pairs at most."""
    pairs: list[Any] = []
    order = np.argsort(data.prompt, kind="stable")
    of_prompt = np.split(order, np.flatnonzero(np.diff(data.prompt[order])) + 1)
    for place in np.random.default_rng(0).permutation(len(of_prompt)).tolist():
        rows = of_prompt[place].tolist()
        if pairs and len(pairs) + len(rows) > count:
            continue
        for row in rows[:count]:
            prompt = data.prompts[data.prompt[row]]
            pairs.append((prompt.trunk, *(prompt.branches[side[row]] for side in (data.chosen, data.rejected))))
    return pairs


def by_turns(path: Path, told: dict[str, Any], script: str = "reward_methods.py") -> dict[str, list[dict[str, float]]]:
    """Return what every method measured in every round."""
    results: dict[str, list[dict[str, float]]] = {method: [] for method in told["methods"]}
    apart = told.get("apart", False)
    children = {} if apart else {method: started(method, path, told, script) for method in told["methods"]}
    for _ in range(told["repeats"]):
        for method in told["methods"]:
            child = children.get(method) or started(method, path, told, script)
            results[method].append(one_turn(method, child))
            print(method, json.dumps(results[method][-1]), file=sys.stderr, flush=True)
            if apart:
                child.communicate()
    for child in children.values():
        child.communicate()
    return results


def started(method: str, path: Path, told: dict[str, Any], script: str) -> subprocess.Popen[str]:
    """Return a method's process, warmed up."""
    child = subprocess.Popen(
        [sys.executable, str(HERE / script), method, str(path), json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    while (line := child.stdout.readline()).strip() != "ready":
        if not line:
            raise SystemExit(f"{method} ended before it was ready")
    return child


def one_turn(method: str, child: subprocess.Popen[str]) -> dict[str, float]:
    """Return what a method's process measures now."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("again\n")
    child.stdin.flush()
    while not (line := child.stdout.readline()).startswith('{"seconds"'):
        if not line:
            raise SystemExit(f"{method} ended before it was done")
    measured: dict[str, float] = json.loads(line)
    return measured


def table(results: dict[str, list[dict[str, float]]], pairs: list[Any], model: str, *, all_train: bool) -> str:
    """Return the results as a table in Markdown, with the useful share of the peak of bfloat16 products."""
    peak = gemm_peak()
    parameters = trained_parameters(model)
    tokens = {
        share: sum(p.tokens for p in token_pairs(pairs, share).prompts) / len(pairs)
        for share in ("prompt", "pair", "none")
    }
    quickest = max((m for m in results if m.startswith("trl")), default=None, key=lambda m: rate(results[m]))
    lines = [
        "| method | pairs/s, median | runs | spread | times TRL | tokens a pair | of peak | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method, runs in results.items():
        share = {"kat prompt trunk": "prompt", "kat pair trunk": "pair"}.get(method, "none")
        rates = [run["pairs"] / run["seconds"] for run in runs]
        times = rate(runs) / rate(results[quickest]) if quickest else float("nan")
        useful = f"{6 * parameters * tokens[share] * rate(runs) / peak:.0%}" if all_train else "–"
        lines.append(
            f"| {method} | {rate(runs):.2f} | {len(runs)} | {min(rates):.2f}–{max(rates):.2f} | {times:.1f} | "
            f"{tokens[share]:.0f} | {useful} | {max(run['peak_mb'] for run in runs):,.0f} |"
        )
    said = f"Products in bfloat16, measured after it: {peak / 1e9:,.0f} GFLOP/s. Useful: 6 × parameters × tokens."
    return "\n".join([*lines, "", said])


def rate(runs: list[dict[str, float]]) -> float:
    """Return the median of pairs a second."""
    return statistics.median(run["pairs"] / run["seconds"] for run in runs)


def gemm_peak() -> float:
    """Return floating point operations a second of bfloat16 products of SmolLM2's shape at 4,096 tokens."""
    import torch

    torch.set_num_threads(cores())
    x, w = torch.randn(4096, 576).bfloat16(), torch.randn(576, 1536).bfloat16()
    best = float("inf")
    for _ in range(30):
        before = time.perf_counter()
        x @ w
        best = min(best, time.perf_counter() - before)
    return 2 * x.shape[0] * w.numel() / best


def trained_parameters(model: str) -> int:
    """Return the parameters that a token is multiplied with."""
    from kat.training.train import load_reward_model
    from kat.training_config import RewardOptions

    base = load_reward_model(RewardOptions(model=model), "cpu").base
    return sum(p.numel() for p in base.parameters()) - base.get_input_embeddings().weight.numel()


if __name__ == "__main__":
    main()
