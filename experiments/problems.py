"""Pairs as heads see them: features, openings with vectors, topics; and the density of any part of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from kat.config import RunOptions
from kat.density.estimators import estimate_density
from kat.density.weights import weigh
from kat.embedding.encoder import encode
from kat.errors import InputError
from kat.neighbors.find import find_neighbors
from kat.pair_config import TryOptions
from kat.pair_weights.clusters import cluster_openings
from kat.run_folder import RunFolder
from kat.stages.try_weights import prepared_pairs
from kat.statistics import density_bins

CLUSTERS = 20


@dataclass(frozen=True, eq=False)
class Problem:
    """P pairs of X openings.

    `x` [P, D] are differences of features, chosen less rejected; `opening` [P] int are rows of `vectors` [X, E], which
    are of unit length; `group` [P] int numbers groups of near-duplicates; `source` and `topic` [P] name where a pair is
    from and what it is about; `ids` [P] are the pairs' ids.
    """

    ids: np.ndarray
    x: np.ndarray
    opening: np.ndarray
    group: np.ndarray
    source: np.ndarray
    topic: np.ndarray
    vectors: np.ndarray
    _measures: dict[str, np.ndarray] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, rows: np.ndarray) -> Problem:
        """Return some pairs, with the openings that they have."""
        kept, opening = np.unique(self.opening[rows], return_inverse=True)
        labels = {name: getattr(self, name)[rows] for name in ("ids", "group", "source", "topic")}
        return Problem(x=self.x[rows], opening=opening, vectors=self.vectors[kept], **labels)

    def of_sources(self, sources: Sequence[str]) -> Problem:
        """Return the pairs whose source is one of those. Raises InputError if there are none."""
        rows = np.flatnonzero(np.isin(self.source, list(sources)))
        if not len(rows):
            raise InputError(f"No pair is of {', '.join(sources)}; there are {', '.join(sorted(set(self.source)))}.")
        return self.rows(rows)

    @property
    def w(self) -> np.ndarray:
        """The density weights [X] of the openings, by the defaults of `kat run`."""
        self._measure()
        return self._measures["w"]

    @property
    def bin(self) -> np.ndarray:
        """The density bin [P] of each pair's opening, 0 the rarest fifth of the openings."""
        self._measure()
        return self._measures["bin"][self.opening]

    @property
    def cluster(self) -> np.ndarray:
        """The cluster [P] of each pair's opening."""
        if "cluster" not in self._measures:
            ids = [f"{i:09d}" for i in range(len(self.vectors))]
            self._measures["cluster"] = cluster_openings(self.vectors, ids, CLUSTERS, 0)
        return self._measures["cluster"][self.opening]

    def _measure(self) -> None:
        if "w" in self._measures:
            return
        density = estimate_density(find_neighbors(self.vectors, 20))
        self._measures["w"] = np.asarray(weigh(density).values, np.float64)
        self._measures["bin"] = density_bins(density.log_values, np.ones(len(self.vectors), bool))


def of_run(run: Path, model: str = "minilm") -> Problem:
    """Return the pairs of a run that train, with a model's features, which are kept in the run's folder.

    A pair's source is its `src`, and so is its topic.
    """
    options = TryOptions(model=model, weightings="density")
    ready = prepared_pairs(RunFolder(run), options, RunOptions())
    training = ready.training
    used, opening = np.unique(training.columns.opening[ready.rows], return_inverse=True)
    source = np.asarray(training.columns.src, object)[ready.rows].astype(str)
    return Problem(
        ids=ready.table.pair_id[ready.rows],
        x=ready.x,
        opening=opening,
        group=ready.table.group[ready.rows],
        source=source,
        topic=source,
        vectors=np.asarray(training.vectors, np.float32)[training.place[used]],
    )


def semi_synthetic(
    prompts: Sequence[str],
    topics: Sequence[str],
    *,
    least: int = 40,
    most: int = 100,
    dimensions: int = 64,
    turned: float = 60.0,
    seed: int = 0,
) -> Problem:
    """Return a pair for prompts of known topics: real openings, differences of features that are drawn.

    Topics of at least `least` distinct prompts take part, with `most` of them at most. What stands before the first
    slash of a topic is its family, by which pairs are then told apart. The rule of a family is `turned` degrees from
    one rule for all, each in a direction of its own: |θ| = 2, labels are drawn from σ(θ·x).
    """
    draw = np.random.default_rng(seed)
    topic_of = dict(zip(prompts, topics, strict=True))
    by_topic: dict[str, list[str]] = {}
    for prompt, topic in topic_of.items():
        by_topic.setdefault(topic, []).append(prompt)
    kept = [
        (topic, own[i])
        for topic, own in sorted(by_topic.items())
        if len(own) >= least
        for i in draw.permutation(len(own))[:most]
    ]
    topic = np.asarray([one.split("/")[0] for one, _ in kept])
    number = np.unique(topic, return_inverse=True)[1]
    shared = _unit(draw.normal(size=dimensions))
    own_rule = draw.normal(size=(number.max() + 1, dimensions))
    own_rule = _unit(own_rule - np.outer(own_rule @ shared, shared))
    angle = np.deg2rad(turned)
    rules = 2 * (np.cos(angle) * shared + np.sin(angle) * own_rule)
    x = draw.normal(size=(len(kept), dimensions))
    wrong = draw.random(len(kept)) > 1 / (1 + np.exp(-(x * rules[number]).sum(1)))
    return Problem(
        ids=np.asarray([str(i) for i in range(len(kept))]),
        x=np.where(wrong[:, None], -x, x).astype(np.float32),
        opening=np.arange(len(kept)),
        group=np.arange(len(kept)),
        source=np.full(len(kept), "drawn"),
        topic=topic,
        vectors=encode([prompt for _, prompt in kept], progress=True).vectors,
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def thinned(
    problem: Problem, rare: Sequence[str], share: float, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows that train, rows that test and which pairs [P] are of the rare topics.

    Half of the groups test. Of the other half train all but the rare topics' openings, of which a `share` is kept.
    """
    is_rare = np.isin(problem.topic, list(rare))
    groups = draw.permutation(np.unique(problem.group))
    tests = np.isin(problem.group, groups[: len(groups) // 2])
    openings = np.unique(problem.opening[~tests & is_rare])
    kept = draw.permutation(openings)[: max(1, round(share * len(openings)))]
    trains = ~tests & (~is_rare | np.isin(problem.opening, kept))
    return np.flatnonzero(trains), np.flatnonzero(tests), is_rare


def drawn_topics(problem: Problem, share: float, draw: np.random.Generator) -> list[str]:
    """Return topics drawn at random until they hold about a `share` of the openings, at least one."""
    names = draw.permutation(np.unique(problem.topic))
    held = {name: len(np.unique(problem.opening[problem.topic == name])) for name in names.tolist()}
    room, taken = share * len(problem.vectors), []
    for name in names.tolist():
        if held[name] <= room:
            taken.append(name)
            room -= held[name]
    return taken or [min(names.tolist(), key=lambda name: held[name])]


ones = partial(np.ones, dtype=np.float64)
