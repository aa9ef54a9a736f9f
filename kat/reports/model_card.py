"""The card of a model: what was trained on what, by which command, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kat.terminal import command_line, escaped


def model_card(task: str, tag: str, told: str, inputs: Mapping[str, str], lines: Sequence[str]) -> str:
    """Return a README.md with the header that a model hub reads.

    Args:
        task: the hub's name of what the model does, as "text-generation".
        tag: what kind of training it came from, besides "preference" and "kat".
        told: the first paragraph.
        inputs: the sha256 of what was read, by name.
        lines: what the command printed at its end.
    """
    parts = [
        "---",
        f"pipeline_tag: {task}",
        f"tags: [{tag}, preference, kat]",
        "---",
        "",
        *told.split("\n"),
        "",
        "| input | sha256 |",
        "|---|---|",
        *(f"| {name} | `{digest}` |" for name, digest in inputs.items()),
        "",
        "```",
        *lines,
        "```",
        "",
        f"Command: `{command_line()}`",
        "",
    ]
    return "\n".join(map(escaped, parts))
