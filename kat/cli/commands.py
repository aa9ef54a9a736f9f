"""The commands of `kat` by panel, and its overview: what needs no library to be loaded."""
# ruff: noqa: E501 - a table

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from kat import __version__
from kat.cli.signals import say_last
from kat.cli.streams import usable_streams
from kat.terminal import show, width


class Command(NamedTuple):
    """What a command does, as its docstring begins, and two lines to type."""

    does: str
    examples: tuple[str, str]


PANELS = {
    "From pairs to weights in one command": {
        "run": Command(
            "Pairs to weights: prefixes, embed and density, each skipped where it is already done; and a report of them.",
            ("kat run pairs.jsonl --out run", "kat run 'data/train-*.parquet' --out run --unit context --k 30"),
        ),
        "demo-data": Command(
            "Preference pairs from a small grammar: 40 topics of very different sizes, the topic of every pair known.",
            ("kat demo-data --out demo/pairs_all.jsonl", "kat demo-data --out demo/pairs_all.jsonl --pairs 500"),
        ),
        "demo-check": Command(
            "Show how far weights recover the rarity of the demo's topics; exit 1 if they do not.",
            ("kat demo-check demo/pairs_all.jsonl demo/run", "kat demo-check demo/pairs_all.jsonl demo/run --json"),
        ),
    },
    "Step by step, and what follows": {
        "prefixes": Command(
            "Pairs to one prefix for each distinct opening (first user message).",
            (
                "kat prefixes pairs.jsonl --out run/prefixes_all.jsonl",
                "kat prefixes pairs.csv --out prefixes.jsonl --columns prompt=question,chosen=good,rejected=bad",
            ),
        ),
        "embed": Command(
            "Prefixes or prompts to unit vectors.",
            (
                "kat embed run/prefixes_all.jsonl --out run/embeddings",
                "kat embed prompts.jsonl --out prompts.pt --model ./my-encoder --max_tokens 512",
            ),
        ),
        "density": Command(
            "Vectors to k-NN density and weights: rare weighs more.",
            ("kat density run/embeddings --out run/density", "kat density run --explain ID"),
        ),
        "sample": Command(
            "Draw openings in proportion to weight, without replacement, and say how likely each was.",
            (
                "kat sample run --out ids.txt --budget 1000",
                "kat sample run --out ids.txt --budget 1000 --seed 1 --overwrite",
            ),
        ),
        "weigh-pairs": Command(
            "Weights of openings to one weight a pair, for any trainer, with a split that near-duplicates do not cross.",
            ("kat weigh-pairs run", "kat weigh-pairs run --control uniform --validation_share 0.2"),
        ),
        "try-weights": Command(
            "Ask your own pairs what each weighting would do: who gains and who pays, before anything is trained.",
            ("kat try-weights run", "kat try-weights run --model smollm2 --folds 10"),
        ),
        "export-weights": Command(
            "Pairs with their weights in the format that a trainer reads.",
            (
                "kat export-weights run --to trl --out run/trl",
                "kat export-weights run --to llamafactory --out run/llamafactory --seed 1",
            ),
        ),
    },
    "Train": {
        "train-rm": Command(
            "Train a reward model on weighed pairs, every prompt's trunk computed once, and measure it on the others.",
            ("kat train-rm run --train head", "kat train-rm run --train lora --pair_weights uniform"),
        ),
        "train-dpo": Command(
            "Train a policy by DPO on weighed pairs, every prompt's trunk computed once, and measure it on the others.",
            ("kat train-dpo run --policy smollm2", "kat train-dpo run --train lora --beta 0.05 --pair_weights uniform"),
        ),
        "train-grpo": Command(
            "Train a policy by GRPO on prompts drawn by density weight, every prompt read once for all its completions.",
            (
                "kat train-grpo run --reward run/rm",
                "kat train-grpo run --reward run/rm --policy run/dpo --max_steps 200",
            ),
        ),
    },
    "Evidence": {
        "score": Command(
            "Reward both completions of every pair, as kat evaluate-rm reads it; or completions of prompts.",
            (
                "kat score run/rm run --out scores.jsonl",
                "kat score run/dpo pairs.jsonl --out scores.jsonl --reference smollm2",
            ),
        ),
        "evaluate-rm": Command(
            "Evaluate a reward model by density bin, with intervals over openings; or compare two on the same pairs.",
            (
                "kat evaluate-rm run/rm/validation_scores.jsonl --pair_weights run/pair_weights.parquet",
                "kat evaluate-rm run/rm/validation_scores.jsonl run/rm.uniform/validation_scores.jsonl",
            ),
        ),
        "evaluate-policy": Command(
            "Let a policy and its reference answer prompts that validate: how often it wins, and KL, by density bin.",
            (
                "kat evaluate-policy run/dpo run --reward run/rm",
                "kat evaluate-policy run/grpo run --reward run/rm --against smollm2 --prompts 40",
            ),
        ),
        "report": Command(
            "One page that shows a run: map of the openings, who gains and who pays, what was wrong, what models learned.",
            ("kat report run", "kat report run --figures run/figures --topic category"),
        ),
    },
    "Look and check": {
        "show": Command(
            "Print again what was reported as things were made; then the heaviest and lightest openings, and who pays.",
            ("kat show run", "kat show run/pair_weights.parquet"),
        ),
        "compare-weights": Command(
            "How far the weights of two runs agree: in rank, in the heaviest tenth, in weight that moves; what moved most.",
            ("kat compare-weights run run-with-another-model", "kat compare-weights run run-with-another-model --json"),
        ),
        "verify": Command(
            "Prove that a folder is whole. Exit 1 names the first wrong row; exit 2 if it is no such folder.",
            ("kat verify run", "kat verify run/density --prompts_path run/prefixes_all.jsonl"),
        ),
        "models": Command(
            "What models are here: bundled ones, and nanochat's checkpoints with format version, dimension and step.",
            ("kat models", "kat models --json"),
        ),
        "export": Command(
            "A model of any source as a Hugging Face folder with safetensors and tokenizer.",
            ("kat export smollm2 ./smollm2", "kat export rm_density ./reward-model"),
        ),
        "selftest": Command(
            "Show that densities of known truth are recovered and that noise gets nearly uniform weights; else exit 1.",
            ("kat selftest", "kat selftest --n 20000 --k 30"),
        ),
    },
}
"""In the order in which they are used."""
COMMANDS = {name: command for panel in PANELS.values() for name, command in panel.items()}
SUMMARY = "Density-aware preference training: measure how crowded every prompt is and let rare prompts count."
HINTS = {
    "Start with": "kat run PAIRS --out RUN",
    "About a command": "kat help COMMAND",
    "Options of every command": "--config FILE, --json, --quiet, --verbose, --help",
    "Names of the origin": "kat origin --help",
    "In bash, zsh or fish": 'eval "$(kat completion bash)"',
}


def examples_of(name: str) -> str:
    """Return what a command's help ends with."""
    return "\n".join(["Examples:", "", *(f"  {line}" for line in COMMANDS[name].examples)])


def overview(columns: int) -> list[str]:
    """Return what `kat --help` prints, in lines of so many columns."""
    lines = ["Usage: kat COMMAND [OPTIONS]", "", *textwrap.wrap(SUMMARY, columns), ""]
    indent = max(map(len, COMMANDS)) + 4
    for panel, commands in PANELS.items():
        lines.append(f"{panel}:")
        for name, command in commands.items():
            first, *others = textwrap.wrap(command.does, columns - indent, break_on_hyphens=False)
            lines += [f"  {name:<{indent - 2}}{first}", *(" " * indent + line for line in others)]
        lines.append("")
    label = max(map(len, HINTS)) + 2
    for name, hint in HINTS.items():
        lines += textwrap.wrap(f"{name + ':':<{label}}{hint}", columns, subsequent_indent=" " * label)
    return lines


def answer_at_once(tokens: Sequence[str]) -> bool:
    """Print the overview or the version if that is all that is asked for, before anything that takes time is loaded;
    return whether it was."""
    if list(tokens) in ([], ["--help"], ["-h"], ["help"]):
        lines = overview(width())
    elif list(tokens) in (["--version"], ["-V"]):
        lines = [__version__]
    else:
        return False
    with usable_streams():
        try:
            show(*lines)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            say_last(f"kat: stdout: {error.strerror or error}\n")
            raise SystemExit(2) from None
    return True
