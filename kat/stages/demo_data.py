"""Preference pairs from a grammar, the topic of every pair known."""

from __future__ import annotations

from pathlib import Path

import orjson

from kat.config import recorded
from kat.demo.grammar import demo_pairs
from kat.evidence_config import DemoOptions
from kat.stages.stage import stage


def write_demo(out: Path, options: DemoOptions, overwrite: bool) -> None:
    """Write a file of demo pairs."""
    with stage("demo-data", out, inputs={}, options=recorded(options), overwrite=overwrite) as job:
        if job.done:
            return
        job.file.writelines(orjson.dumps(pair) + b"\n" for pair in demo_pairs(options.pairs, options.seed))
        job.say(f"{options.pairs:,} pairs")
