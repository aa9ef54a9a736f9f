"""What to do next with a run: the exact commands, and only those that are still to be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kat.reports.blocks import Block, Commands, Text
from kat.run_folder import VALIDATION_SCORES, pair_weights_name
from kat.terminal import shell_word

MODEL, UNIFORM_MODEL = "rm", "rm.uniform"
"""Where `kat train-rm RUN` writes, unless told."""


@dataclass(frozen=True)
class Done:
    """What was made of a run: its file of pair weights (None if there is none yet), what `kat try-weights` found and
    the flags that its pair weights were made with, its reward models, those of them whose rewards were evaluated, and
    whether weights were exported. `validates` says whether it has pairs that validate."""

    pair_weights: Path | None = None
    tried: Mapping[str, Any] | None = None
    flags: str | None = None
    reward_models: Sequence[Path] = ()
    evaluated: Sequence[Path] = ()
    exported: bool = False
    validates: bool = True


def next_steps(run: Path, done: Done) -> list[Block]:
    """Return what is still to be done with a run, in an order in which it can be typed."""
    blocks: list[Block] = []
    if done.tried is not None:
        blocks.append(Text(f"kat try-weights: {done.tried['sentence']}."))
    return [*blocks, Commands("What to do next", commands(run, done))]


def commands(run: Path, done: Done) -> list[str]:
    """Return the commands."""
    name, tried = shell_word(str(run)), done.tried
    table = done.pair_weights or run / pair_weights_name()
    best = None if tried is None else tried["flags"].get(tried["best"])
    uniform = tried is not None and best is None and tried["rare"] in tried["uniform"]
    lines = [] if tried is not None else [f"kat try-weights {name}"]
    if done.pair_weights is None or (best is not None and done.flags is not None and best != done.flags):
        lines.append(_words(f"kat weigh-pairs {name}", best, "--overwrite" if done.pair_weights else None))
    models = list(done.reward_models)
    if not models or (uniform and run / UNIFORM_MODEL not in models):
        models.append(run / (UNIFORM_MODEL if uniform else MODEL))
        lines.append(_words(f"kat train-rm {name}", "--pair_weights uniform" if uniform else None))
    for model in models:
        if done.validates and model not in done.evaluated:
            scores, weights = (shell_word(str(path)) for path in (model / VALIDATION_SCORES, table))
            lines.append(f"kat evaluate-rm {scores} --pair_weights {weights}")
    if not done.exported:
        lines.append(f"kat export-weights {shell_word(str(table))} --to trl --out {shell_word(str(run / 'trl'))}")
    return [*lines, f"kat verify {name}"]


def _words(*words: str | None) -> str:
    return " ".join(word for word in words if word)
