"""Steps of GRPO: kat against TRL's GRPOTrainer, generation and training apart, each against its products' own time.

    python benchmarks/bench_grpo.py --pairs PAIRS.jsonl [--prompts 2 --generations 8 --new 64 --beta 0 --repeats 3]

Same model, prompts, reward function, numbers of tokens and precision (bfloat16) for all. Every method lives in a
process of its own, warmed up by a step, and they take turns; one process computes at a time. The floor is the time of
the products alone: of decoding, every weight times as many rows as grow together, once a token; of training, six
operations a weight and token at the peak that large products reach.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_reward import by_turns, gemm_peak
from encode_machine import cores, header
from grpo_methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--trl_batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    prompts = drawn_prompts(options)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "prompts.json"
        path.write_text(json.dumps(prompts))
        told = vars(options) | {"threads": cores(), "scratch": scratch}
        results = by_turns(path, told, script="grpo_methods.py")
    size = f"{options.prompts} × {options.generations} × {options.new} tokens"
    print(f"\n{header()}\n\n{options.model}, {size}, β {options.beta}\n")
    print(table(results, options, prompts))


def drawn_prompts(options: argparse.Namespace) -> list[str]:
    """Return opening texts, enough for all steps."""
    from kat import read_pairs

    openings = sorted({pair.prefix.opening for pair in read_pairs(options.pairs, "all")})
    draw = np.random.default_rng(0).permutation(len(openings))
    return [openings[i] for i in draw[: options.prompts * (options.repeats + 2)].tolist()]


def table(results: dict[str, list[dict[str, float]]], options: argparse.Namespace, prompts: list[str]) -> str:
    """Return the results as a table in Markdown."""
    rows, count = decode_rows(options), options.prompts * options.generations
    decode = decode_floor(options.model, rows)
    generating = decode * options.new * -(-count // rows)
    training = training_floor(options, prompts)
    best = min((m for m in results if m.startswith("trl")), default=None, key=lambda m: median(results[m], "seconds"))
    lines = [
        "| method | completions/s, median | runs | times TRL | generating, s | × floor | training, s | × floor | "
        "peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method, runs in results.items():
        seconds, drawn, trained = (median(runs, name) for name in ("seconds", "generating", "training"))
        peak = max(run["peak_mb"] for run in runs)
        times = median(results[best], "seconds") / seconds if best else float("nan")
        lines.append(
            f"| {method} | {count / seconds:.2f} | {len(runs)} | {times:.1f} | {drawn:.2f} | "
            f"{drawn / generating:.1f} | {trained:.2f} | {trained / training:.1f} | {peak:,.0f} |"
        )
    said = f"Floors: generating {generating:.2f} s ({1000 * decode:.1f} ms a token of {rows} rows), "
    said += f"training {training:.2f} s."
    return "\n".join([*lines, "", said])


def decode_rows(options: argparse.Namespace) -> int:
    """Return how many completions grow together."""
    return min(64, options.prompts * options.generations)


def median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def decode_floor(model: str, rows: int) -> float:
    """Return seconds of all products of one decoding step in bfloat16, weights laid out for them: nothing else."""
    import torch

    from kat.models.load import load_model
    from kat.packing.precision import LinearBfloat16

    torch.set_num_threads(cores())
    loaded: Any = load_model(model, kind="causal", device="cpu", dtype="float32").model
    layers = [LinearBfloat16(m.weight, m.bias) for m in loaded.modules() if type(m) is torch.nn.Linear]
    inputs = {layer.in_features: torch.randn(rows, layer.in_features).bfloat16() for layer in layers}
    times = []
    with torch.no_grad():
        for _ in range(30):
            before = time.perf_counter()
            for layer in layers:
                layer(inputs[layer.in_features])
            times.append(time.perf_counter() - before)
    return statistics.median(times)


def training_floor(options: argparse.Namespace, prompts: list[str]) -> float:
    """Return seconds of the products of a training step at the peak, prompts once and completions once."""
    from kat.models.load import load_model

    loaded = load_model(options.model, kind="causal", device="cpu", dtype="float32")
    model: Any = loaded.model
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    body = sum(p.numel() for p in model.parameters()) - head * (1 if tied else 2)
    lengths = [len(loaded.chat.render([{"role": "user", "content": text}])) for text in prompts]
    said = options.prompts * options.generations * options.new
    tokens = options.prompts * float(np.mean(lengths)) + said
    passes = 6 + (2 if options.beta else 0)
    return (passes * body * tokens + passes * head * said) / gemm_peak()


if __name__ == "__main__":
    sys.exit(main())
