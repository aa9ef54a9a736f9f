"""The demo's proof: topics of known size, and what weights they got."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kat.data.openings import unit_id
from kat.data.prompts import prompt_of
from kat.data.rows import read_rows
from kat.errors import InputError, MismatchError
from kat.run_folder import WEIGHTS, RunFolder, load_ids
from kat.statistics import effective_sample_size, spearman

RECOVERED = 0.8
"""Rank correlation of mean topic weight with 1 / topic size from which the demo counts as a success."""


@dataclass(frozen=True)
class DemoCheck:
    """How far weights recover the rarity of T topics.

    `topics`, `sizes` (openings of each) and `mean_weights` are of one length T, largest topic first, ties by name.
    `rank_correlation` is Spearman's of mean weight with 1 / size; `ess_share` is (Σw)² / Σw² / N over all N
    `openings` that have a weight.
    """

    topics: tuple[str, ...]
    sizes: tuple[int, ...]
    mean_weights: tuple[float, ...]
    rank_correlation: float
    ess_share: float
    openings: int

    @property
    def recovered(self) -> bool:
        """Tell whether the weights recover the topics' rarity."""
        return self.rank_correlation >= RECOVERED


def check_demo(pairs: Path, run: Path) -> DemoCheck:
    """Compare the weights of a run with the topics of the demo file that it was made from.

    Raises MismatchError if an opening of the file has no weight, InputError if a row has no topic.
    """
    folder = RunFolder(run)
    weights = dict(zip(load_ids(folder.density), folder.load(WEIGHTS), strict=True))
    topics = topics_of_openings(pairs, folder.unit)
    if missing := topics.keys() - weights.keys():
        raise MismatchError(
            f"{run} has no weight for {len(missing):,} openings of {pairs}; was it made from this file?"
        )
    return compare_topics(topics, weights)


def compare_topics(topics: Mapping[str, str], weights: Mapping[str, float]) -> DemoCheck:
    """Compare weights {opening id: weight} with the sizes of topics {opening id: topic}; every opening has a weight."""
    by_topic: dict[str, list[float]] = defaultdict(list)
    for opening, topic in topics.items():
        by_topic[topic].append(float(weights[opening]))
    order = sorted(by_topic, key=lambda topic: (-len(by_topic[topic]), topic))
    sizes = tuple(len(by_topic[topic]) for topic in order)
    means = tuple(float(np.mean(by_topic[topic])) for topic in order)
    values = np.asarray(list(weights.values()))
    return DemoCheck(
        topics=tuple(order),
        sizes=sizes,
        mean_weights=means,
        rank_correlation=spearman(1 / np.asarray(sizes), np.asarray(means)),
        ess_share=effective_sample_size(values) / len(values),
        openings=len(values),
    )


def topics_of_openings(pairs: Path, unit: str = "opening") -> dict[str, str]:
    """Read {opening id: topic} of a demo file, or by the ids of another unit.

    Raises InputError for a row without a topic, BadRow for no opening.
    """
    topics: dict[str, str] = {}
    for row in read_rows(pairs):
        if row.value is None or "topic" not in row.value:
            raise InputError(f"{pairs}:{row.number} has no topic; expected a file of kat demo-data.")
        # The row's own id is the pair's.
        topics[unit_id(prompt_of(row.value).messages, unit)] = row.value["topic"]
    return topics
