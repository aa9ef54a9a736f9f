"""The prompts of a run's weighed pairs: a part of the commands that let policies answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.data.columns import reading_of
from kat.data.pairs import PairReader
from kat.inputs import Inputs
from kat.integrations.contexts import context_id
from kat.integrations.rows import context_of, weighed_pairs
from kat.pair_weights.storage import PairWeights
from kat.run_folder import RunFolder
from kat.stages.stage import with_progress
from kat.training.prompt_sampler import Asked


def asked_of(pair: Any, density_bin: int) -> Asked:
    """Return a pair's context as a prompt."""
    messages, tools = context_of(pair), pair.tools or None
    return Asked(messages, pair.prefix.id, context_id(messages, tools), density_bin, tools)


def prompts_of_run(run: RunFolder, source: Inputs, table: PairWeights) -> dict[str, dict[str, Asked]]:
    """Return the contexts of pairs that train and of those that validate, {part: {context id: prompt}}."""
    bins = dict(zip(table.pair_id.tolist(), table.bin.tolist(), strict=True))
    reading = reading_of(run.manifest(run.pair_weights()) or {})
    parts: dict[str, dict[str, Asked]] = {"train": {}, "validation": {}}
    for one in weighed_pairs(with_progress(PairReader(source, "all", options=reading), "pairs"), table):
        asked = asked_of(one.pair, bins[one.pair_id])
        parts[one.part].setdefault(asked.context_id, asked)
    return parts


def held_out(parts: Mapping[str, Mapping[str, Asked]]) -> list[Asked]:
    """Return the prompts of pairs that validate, less those that also train."""
    return [asked for asked in parts["validation"].values() if asked.context_id not in parts["train"]]
