"""The demo's proof: topics of known size, and what weights they got."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from kat.artifacts import load_array, load_ids
from kat.data.prompts import item_of
from kat.data.rows import read_rows
from kat.errors import InputError, MismatchError
from kat.statistics import effective_sample_size, spearman

RECOVERED = 0.8
"""Rank correlation of mean topic weight with 1 / topic size from which the demo counts as a success."""


def check_demo(pairs: Path, run: Path) -> tuple[list[str], bool]:
    """A table of topics, largest first, and whether their weights recover their rarity."""
    weights = dict(zip(load_ids(run / "density"), load_array(run / "density" / "density_weights.npy"), strict=True))
    topics = topics_of_openings(pairs)
    if missing := topics.keys() - weights.keys():
        raise MismatchError(
            f"{run} has no weight for {len(missing):,} openings of {pairs}; was it made from this file?"
        )
    by_topic: dict[str, list[float]] = defaultdict(list)
    for opening, topic in topics.items():
        by_topic[topic].append(float(weights[opening]))
    sizes = {topic: len(w) for topic, w in by_topic.items()}
    means = {topic: float(np.mean(w)) for topic, w in by_topic.items()}
    order = sorted(sizes, key=lambda t: (-sizes[t], t))
    rank = spearman([1 / sizes[t] for t in order], [means[t] for t in order])
    values = np.asarray(list(weights.values()))
    share = effective_sample_size(values) / len(values)
    lines = ["", f"{'topic':<28}{'openings':>9}{'mean weight':>13}", "-" * 50]
    lines += [
        f"{t:<28}{sizes[t]:>9,}{means[t]:>13.3f}  {'▇' * round(24 * means[t] / max(means.values()))}" for t in order
    ]
    lines += [
        "-" * 50,
        f"rank correlation of mean topic weight with 1 / topic size: {rank:.3f} (at least {RECOVERED} expected)",
        f"effective sample size: {share:.1%} of {len(values):,} openings",
        f"results: {run}",
    ]
    return lines, rank >= RECOVERED


def topics_of_openings(pairs: Path) -> dict[str, str]:
    """{opening id: topic} of a demo file."""
    found = {}
    for row in read_rows(pairs):
        if row.value is None or "topic" not in row.value:
            raise InputError(f"{pairs}:{row.number} has no topic; expected a file of kat demo-data.")
        found[item_of(row.value | {"id": None}).id] = row.value["topic"]
    return found
