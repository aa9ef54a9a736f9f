"""Pairs a second of DPO, the reference included: kat against TRL's DPOTrainer at its quickest setting.

    python benchmarks/bench_dpo.py --pairs PAIRS.jsonl [--n 256 --trl_pairs 64 --repeats 3]

Same model, trainable parameters (all), token ids and steps of `--batch` pairs; bfloat16 products for all. Whole prompts
are drawn until there are `--n` pairs; TRL, which shares nothing between pairs, trains on `--trl_pairs` of these, drawn,
so that rates a pair are compared. Its quickest weights (bfloat16, or float32 by autocast) and pairs a batch are found
first, on `--tune_pairs`, with batches of like lengths; both of its references are measured, ahead of the training and
beside it. Every method lives in a process of its own, warmed up before the clock, and the methods take turns; one
process computes at a time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench_reward import by_turns, gemm_peak, rate, whole_prompts
from dpo_methods import BATCHES, KAT, WEIGHTS, trl_name
from encode_machine import cores, header
from reward_methods import save_pairs, token_pairs

Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--n", type=int, default=256, help="pairs that kat trains on")
    parser.add_argument("--trl_pairs", type=int, default=64)
    parser.add_argument("--tune_pairs", type=int, default=16, help="pairs to find TRL's quickest setting on")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--row_tokens", type=int, default=4096)
    parser.add_argument("--max_len", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="*", help="in place of kat and TRL's quickest: kat …, trl WEIGHTS N ahead")
    parser.add_argument("--no_warm_up", action="store_true")
    parser.add_argument("--apart", action="store_true", help="a process for each turn: memory need not hold all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pairs.npz"
        pairs = drawn_pairs(options)
        save_pairs(path, pairs)
        told = vars(options) | {"threads": cores(), "scratch": scratch, "warm_up": not options.no_warm_up}
        tuning: Runs = {}
        if not options.methods:
            tuning = tuned(path, told)
            told["methods"] = ["kat prompt trunk", *quickest(tuning)]
        results = by_turns(path, told, script="dpo_methods.py")
    shown = f"{len(pairs)} pairs, {options.trl_pairs} of them for TRL, steps of {options.batch}"
    print(f"\n{header()}\n\n{Path(options.pairs).name}, {options.model}, {shown}, {options.max_len} tokens at most\n")
    if tuning:
        print(tuning_table(tuning, options.tune_pairs), end="\n\n")
    print(table(results, pairs, options.model))


def drawn_pairs(options: argparse.Namespace) -> list[Any]:
    """Return trunk, chosen and rejected token ids of all pairs of prompts that are drawn, `n` pairs at most."""
    from kat import read_pairs
    from kat.training.train import tokens_of
    from kat.training.train_dpo import load_dpo_policy
    from kat.training_config import DpoOptions

    chosen = DpoOptions(policy=options.model, max_len=options.max_len, long_completions="drop")
    policy = load_dpo_policy(chosen, "cpu")
    return whole_prompts(tokens_of(policy, read_pairs(options.pairs, "all"), chosen), options.n)


def tuned(path: Path, told: dict[str, Any]) -> Runs:
    """Return one run of each of TRL's settings, the reference ahead, on a few pairs."""
    methods = [trl_name(weights, batch, "ahead") for weights in WEIGHTS for batch in BATCHES]
    few = {"methods": methods, "trl_pairs": told["tune_pairs"], "repeats": 1, "apart": True}
    return by_turns(path, told | few, script="dpo_methods.py")


def quickest(tuning: Runs) -> list[str]:
    """Return the quickest setting of TRL, with its reference ahead and beside."""
    best = max(tuning, key=lambda method: rate(tuning[method])).removesuffix(" ahead")
    return [f"{best} ahead", f"{best} beside"]


def tuning_table(tuning: Runs, count: int) -> str:
    """Return how quick each setting of TRL was, as a table in Markdown."""
    lines = [f"| of TRL, {count} pairs, one run | pairs/s | peak memory, MB |", "|---|---:|---:|"]
    lines += [f"| {method} | {rate(runs):.2f} | {peak_memory(runs):,.0f} |" for method, runs in tuning.items()]
    return "\n".join(lines)


class Counts(NamedTuple):
    """Tokens of a pair, on average: those that are read, and those of completions, which the head is for."""

    read: float
    said: float


def counts(pairs: list[Any], share: str) -> Counts:
    """Return the tokens of a pair where trunks are shared by a prompt, by a pair, or by nothing."""
    prompts = token_pairs(pairs, share).prompts
    read = sum(prompt.tokens for prompt in prompts)
    if share == "none":
        return Counts(read / len(pairs), sum(len(side) for _, *sides in pairs for side in sides) / len(pairs))
    return Counts(read / len(pairs), sum(len(branch) for p in prompts for branch in p.branches) / len(pairs))


def table(results: Runs, pairs: list[Any], model: str) -> str:
    """Return the results as a table in Markdown, with the useful share of the peak of bfloat16 products."""
    peak, (body, head) = gemm_peak(), parameters(model)
    of_trl = [method for method in results if method.startswith("trl")]
    best, best_ahead = (
        max(named, default=None, key=lambda method: speed(results[method]))
        for named, speed in ((of_trl, rate), ([m for m in of_trl if m.endswith("ahead")], training_rate))
    )
    lines = [
        "| method | pairs/s, median | runs | spread | times TRL | training alone, pairs/s | times TRL | "
        "tokens a pair | of peak | peak memory, MB | first loss | mean loss |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method, runs in results.items():
        tokens = counts(pairs, KAT.get(method, "none"))
        useful = 8 * (body * tokens.read + head * tokens.said) * rate(runs) / peak
        rates = [run["pairs"] / run["seconds"] for run in runs]
        times = f"{rate(runs) / rate(results[best]):.1f}" if best else "–"
        alone = not method.endswith("beside")
        trains = f"{training_rate(runs):.2f}" if alone else "–"
        as_quick = f"{training_rate(runs) / training_rate(results[best_ahead]):.1f}" if best_ahead and alone else "–"
        first, mean = (statistics.median(run[name] for run in runs) for name in ("first_loss", "loss"))
        lines.append(
            f"| {method} | {rate(runs):.2f} | {len(runs)} | {min(rates):.2f}–{max(rates):.2f} | {times} | "
            f"{trains} | {as_quick} | {tokens.read:.0f} | {useful:.0%} | {peak_memory(runs):,.0f} | "
            f"{first:.4f} | {mean:.4f} |"
        )
    said = f"Products in bfloat16, measured after it: {peak / 1e9:,.0f} GFLOP/s. Useful: 2 operations for the reference"
    said += " and 6 for the training a weight and token, of the head for the tokens of completions alone."
    far = [m for m, runs in results.items() if any(abs(run["first_loss"] - math.log(2)) > 0.02 for run in runs)]
    said += f" Before a step the loss is {math.log(2):.4f}" + (f", and was not for {', '.join(far)}." if far else ".")
    return "\n".join([*lines, "", said])


def training_rate(runs: list[dict[str, float]]) -> float:
    """Return the median of pairs a second without the reference."""
    return statistics.median(run["pairs"] / run["training"] for run in runs)


def peak_memory(runs: list[dict[str, float]]) -> float:
    return max(run["peak_mb"] for run in runs)


def parameters(model: str) -> tuple[int, int]:
    """Return the weights that a token is multiplied with below the head, and those of the head."""
    from kat.models.load import load_model

    loaded: Any = load_model(model, kind="causal", device="cpu", dtype="float32").model
    head, embeddings = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    others = head.numel() if head is embeddings else head.numel() + embeddings.numel()
    return sum(p.numel() for p in loaded.parameters()) - others, head.numel()


if __name__ == "__main__":
    main()
