"""Where every output comes from: options, seeds, hashes of what was read, commands, time and memory, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from kat.config import DensityOptions, EmbedOptions, ExportWeightsOptions, ReadOptions, RunOptions
from kat.evidence_config import EvaluateOptions
from kat.grpo_config import AnswerOptions, GrpoOptions
from kat.pair_config import PairOptions, TryOptions
from kat.reports.blocks import Block, Column, Commands, Note, Section, Table, Value
from kat.reports.sections.parts import clipped, columns
from kat.training_config import DpoOptions, RewardOptions, ScoreOptions

_OPTIONS: dict[str, tuple[type, ...]] = {
    "prefixes": (RunOptions, ReadOptions),
    "embed": (RunOptions, EmbedOptions),
    "contexts": (RunOptions, EmbedOptions, ReadOptions),
    "neighbors": (DensityOptions,),
    "density": (DensityOptions,),
    "weigh-pairs": (RunOptions, ReadOptions, PairOptions),
    "try-weights": (TryOptions,),
    "train-rm": (RunOptions, ReadOptions, RewardOptions),
    "train-dpo": (RunOptions, ReadOptions, DpoOptions),
    "train-grpo": (RunOptions, ReadOptions, GrpoOptions),
    "evaluate-policy": (RunOptions, AnswerOptions),
    "score": (RunOptions, ReadOptions, ScoreOptions),
    "evaluate-rm": (RunOptions, EvaluateOptions),
    "export-weights": (ExportWeightsOptions,),
}
"""Whose fields the options in a stage's manifest are."""
_COMMANDS = {"neighbors": "kat density", "contexts": "kat run"}
"""Of parts of a stage, the command that makes them."""
_NOT_OPTIONS = {"neighbors": ("k",)}
"""What a manifest holds beside options: how many neighbours are kept, which is more than k."""
_SEEDS = ("seed", "control_seed")
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Output:
    """An output of a run under a name, with its manifest."""

    name: str
    manifest: Mapping[str, Any]


def provenance(
    outputs: Sequence[Output],
    *,
    log: Sequence[Mapping[str, Any]] = (),
    versions: Mapping[str, str | None] | None = None,
) -> Section:
    """Show what every output was made from, and how.

    Args:
        outputs: in the order in which they were made.
        log: what was run: stage, out, command, began, seconds, peak_memory_bytes, kat_version, python, torch; any of
            them may be missing.
        versions: of what is installed where the report is made, None for what is not.
    """
    blocks: list[Block] = [_outputs(outputs), *_inputs(outputs), *_commands(log), _time(outputs, log)]
    if versions:
        rows = [(name, version or "not installed") for name, version in versions.items()]
        blocks.append(Table("Versions where this report was made", (Column("package"), Column("version")), rows))
    return Section("provenance", "Provenance", blocks)


@cache
def defaults(stage: str) -> Mapping[str, Any]:
    """Return the defaults of a stage's options by name; empty for a stage that is not known."""
    return {
        one.name: one.default for kind in _OPTIONS.get(stage, ()) for one in fields(kind) if one.default is not MISSING
    }


def changed_options(stage: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not at their default; those whose default is not known too, but for empty ones."""
    known = defaults(stage)
    return {
        name: value
        for name, value in options.items()
        if name not in (*_SEEDS, *_NOT_OPTIONS.get(stage, ()))
        and (value != known[name] if name in known else value not in (None, [], {}))
    }


def _outputs(outputs: Sequence[Output]) -> Table:
    head = columns(
        {
            "output": "text",
            "made by": "text",
            "kat version": "text",
            "seed": "id",
            "options that are not the default": "text",
        }
    )
    rows = []
    for one in outputs:
        manifest = one.manifest
        options = manifest["options"]
        told = " ".join(
            f"--{name} {_word(value)}" for name, value in changed_options(manifest["stage"], options).items()
        )
        seeds = ", ".join(str(options[name]) for name in _SEEDS if options.get(name) is not None)
        command = _COMMANDS.get(manifest["stage"], f"kat {manifest['stage']}")
        rows.append((one.name, command, manifest["kat_version"], seeds or None, clipped(told, 600) or None))
    return Table("Outputs, in the order in which they were made", head, rows)


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_word(one)}" for name, one in value.items()) + "}"
    return ",".join(map(_word, value)) if isinstance(value, list | tuple) else str(value)


def _inputs(outputs: Sequence[Output]) -> list[Block]:
    """What each output was made from and what was written, by hash."""
    head = (Column("output"), Column("input"), Column("sha256", "id"))
    read = [(one.name, name, digest) for one in outputs for name, digest in one.manifest["inputs"].items()]
    written = [(one.name, n, digest) for one in outputs for n, digest in one.manifest.get("outputs", {}).items()]
    blocks: list[Block] = [Table("What was read", head, read)]
    if written:
        blocks.append(Table("What was written", (head[0], Column("file"), head[2]), written))
    return blocks


def _commands(log: Sequence[Mapping[str, Any]]) -> list[Block]:
    lines = list(dict.fromkeys(str(one["command"]) for one in log if one.get("command")))
    if not lines:
        return [Note("The exact commands are not known: no log of this run names them.")]
    return [Commands("The exact commands", lines)]


def _time(outputs: Sequence[Output], log: Sequence[Mapping[str, Any]]) -> Table:
    """Time and memory by stage, as logged; a stage that no log names is not known."""
    head = columns(
        {
            "stage": "text",
            "output": "text",
            "began": "text",
            "time": "seconds",
            "memory": "bytes",
            "kat": "text",
            "Python": "text",
            "torch": "text",
        }
    )
    rows: list[tuple[Value, ...]] = [_logged(one) for one in log]
    logged = {str(one.get("stage")) for one in log}
    for stage in dict.fromkeys(one.manifest["stage"] for one in outputs):
        if stage not in logged:
            rows.append((stage, None, NOT_KNOWN, None, None, None, None, None))
    return Table("Time and memory by stage", head, rows)


def _logged(one: Mapping[str, Any]) -> tuple[Value, ...]:
    stage, out = one.get("stage") or NOT_KNOWN, one.get("out")
    numbers = (one.get("seconds"), one.get("peak_memory_bytes"))
    versions = (one.get(name) for name in ("kat_version", "python", "torch"))
    return (stage, out, one.get("began") or NOT_KNOWN, *numbers, *versions)
