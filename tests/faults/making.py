"""The world that faults are put into: a few dozen pairs, what every stage reads, and the command of every stage.

A command runs in a copy of the world, as its working directory, and writes to `new/`. Its older output, which another
command replaces, was made by the same stage from other options.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from making import jsonl, pair, write

_CPU = ("--device", "cpu")
_BAD = ("--max_bad_rows", "1")
_PAIRS, _PERMUTED = "run/pair_weights.parquet", "run/pair_weights.permuted.parquet"
_LIMITS = ("--max_len", "200", "--min_prompt", "32", "--precision", "float32")
_SHORTER = ("--max_len", "40", *_LIMITS[2:])
_HEAD = ("--train", "head", "--batch_size", "16", *_LIMITS, *_CPU)
_STEPS = ("--max_steps", "4", "--save_every", "1", "--eval_every", "2", "--log_every", "1")
_SCORES = ("--pair_weights", _PAIRS, "--split", "all", "--missing_scores", "all", *_BAD)
_GRPO = (
    *(
        "train-grpo",
        "run",
        "--policy",
        "tiny",
        "--reward",
        "reward",
        "--precision",
        "float32",
        *_CPU,
        "--max_len",
        "200",
    ),
    *("--batch_size", "2", "--num_generations", "2", "--max_new_tokens", "3", "--min_prompt", "32"),
    *("--fixed_prompts", "1", "--eval_every", "0", "--save_every", "1"),
)
_TRY = (
    *("try-weights", "run", "--model", "tiny", *_CPU, *_BAD, "--weightings", "blend=0.5", "--folds", "2"),
    *("--seeds", "1", "--permutations", "1", "--out", "new/t"),
)


@dataclass(frozen=True)
class Stage:
    """A stage's command, what is added to it, and what is added instead for the older output that it replaces."""

    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    full_only: bool = False

    @property
    def command(self) -> list[str]:
        """The command, which writes to `new/`."""
        return [*self.words, *self.more]

    @property
    def before(self) -> list[str]:
        """The command that made the older output, in the same place."""
        return [*self.words, *self.older]

    @property
    def output(self) -> str:
        """What the command writes, seen from the world's folder."""
        return self.words[self.words.index("--out") + 1]


def _export(to: str, *, full_only: bool = False) -> Stage:
    words = ("export-weights", "--to", to, "--out", f"new/{to}")
    return Stage(words, ("--run", "run"), ("--run", _PERMUTED), full_only)


STAGES = {
    "prefixes": Stage(("prefixes", "pairs.jsonl", *_BAD, "--out", "new/p.jsonl"), (), ("--unit", "context")),
    "embed": Stage(
        ("embed", "run/prefixes_all.jsonl", "--model", "tiny", *_CPU, "--out", "new/e"), (), ("--max_tokens", "6")
    ),
    "density": Stage(("density", "run/embeddings", *_CPU, "--out", "new/d"), (), ("--metric", "euclidean")),
    "sample": Stage(("sample", "run", "--out", "new/s.txt"), ("--budget", "5"), ("--budget", "7")),
    "weigh-pairs": Stage(
        ("weigh-pairs", "run", *_BAD, "--validation_share", "0.3", "--out", "new/w.parquet"), (), ("--blend", "0.5")
    ),
    "try-weights": Stage(_TRY, ("--replicates", "20"), ("--replicates", "21"), full_only=True),
    "export-trl": _export("trl"),
    "export-jsonl": _export("jsonl"),
    "export-openrlhf": _export("openrlhf"),
    "export-verl": _export("verl", full_only=True),
    "export-axolotl": _export("axolotl", full_only=True),
    "export": Stage(("export", "--out", "new/m"), ("tiny",), ("reward",)),
    "score": Stage(
        ("score", "reward", "pairs.jsonl", *_BAD, *_CPU, "--out", "new/s.jsonl"),
        _LIMITS,
        ("--max_len", "40", *_LIMITS[2:]),
    ),
    "evaluate-rm": Stage(
        ("evaluate-rm", "scores.jsonl", *_SCORES, "--out", "new/v"), ("--replicates", "20"), ("--replicates", "21")
    ),
    "train-rm": Stage(
        ("train-rm", "run", "--model", "tiny", *_HEAD, *_STEPS, *_BAD, "--out", "new/rm"), (), ("--seed", "1")
    ),
    "train-grpo": Stage((*_GRPO, "--out", "new/g"), ("--max_steps", "2"), ("--max_steps", "1")),
    "report": Stage(("report", "run", "--out", "new/r.html"), (), ("--seed", "1")),
    "run": Stage(
        ("run", "pairs.jsonl", "--model", "tiny", *_CPU, *_BAD, "--no_report", "--out", "new/r"),
        (),
        ("--max_tokens", "6"),
    ),
}


def build(folder: Path, *, reward: bool = True) -> None:
    """Make what stages read, in a folder; a reward model takes longest, and few stages read one."""
    from making_training import tiny_chat_model

    from tests.faults import forks

    words = ["red", "green", "blue", "grey"]
    rows = [pair(f"Why is {a} {b} number {i}?", f"{a} it is", f"{b}?") for i in range(2) for a in words for b in words]
    rows.append({"prompt": 7})
    folder.mkdir(parents=True)
    os.chdir(folder)
    write(folder / "pairs.jsonl", jsonl(*rows))
    tiny_chat_model(folder / "tiny", texts=[json.dumps(row) for row in rows], causal=True)
    commands = [
        ("run", "pairs.jsonl", "--out", "run", "--model", "tiny", *_CPU, *_BAD, "--no_report"),
        ("weigh-pairs", "run", *_BAD, "--validation_share", "0.3"),
        ("weigh-pairs", "run", *_BAD, "--validation_share", "0.3", "--control", "permuted"),
        ("train-rm", "run", "--model", "tiny", *_HEAD, *_BAD, "--max_steps", "1", "--out", "reward"),
    ]
    for command in commands if reward else commands[:-1]:
        if (rc := forks.kat(list(command))) != 0:
            raise RuntimeError(f"the world cannot be made: {command} ended with {rc}")
    _write_scores(folder)


def _write_scores(folder: Path) -> None:
    import kat

    ids = kat.read_pair_weights(folder / "run" / "pair_weights.parquet").pair_id.tolist()
    scores = [{"pair_id": one, "chosen": 1.0, "rejected": float(i % 2)} for i, one in enumerate(ids)]
    write(folder / "scores.jsonl", jsonl(*scores, {"pair_id": 3}))


def copy_world(source: Path, target: Path) -> Path:
    """Copy a world, or one in which a command ran, for one case."""
    return Path(shutil.copytree(source, target, symlinks=True))
