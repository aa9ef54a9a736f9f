"""What is known of the pairs of a training, and what is said of it: a part of `kat train-rm` and `kat train-dpo`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.errors import InputError
from kat.integrations.rows import WeighedPair
from kat.pair_weights.facts import who_pays
from kat.statistics import effective_sample_size
from kat.training_config import PairTrainingOptions

if TYPE_CHECKING:
    from kat.training.policy import Policy
    from kat.training.reward import RewardModel
    from kat.training.tokens import TokenPairs
    from kat.training.train import Scored


@dataclass(frozen=True)
class Mark:
    """What is known of a pair beside its texts: its part, weight, opening, source, density bin (−1: not known)."""

    part: str
    v: float
    opening: str
    src: str
    bin: int
    group: str


@dataclass(frozen=True, eq=False)
class Prepared:
    """A loaded model, all pairs as tokens, those that train, validate and select a step (None where none is selected),
    the weights of the first, and the marks of all."""

    model: Any
    tokens: TokenPairs
    train: TokenPairs
    validation: TokenPairs
    weights: np.ndarray
    marks: Mapping[str, Mark]
    selection: TokenPairs | None = None


def prepare(
    model: RewardModel | Policy,
    weighed: Iterable[WeighedPair],
    places: Mapping[str, tuple[int, str]],
    options: PairTrainingOptions,
    weigh: Callable[[np.ndarray], np.ndarray],
) -> Prepared:
    from kat.training.train import tokens_of

    marks: dict[str, Mark] = {}
    tokens = tokens_of(model, _marked(weighed, places, marks), options)
    part = np.asarray([marks[pair_id].part == "train" for pair_id in tokens.ids], bool)
    validation = tokens.select(np.flatnonzero(~part))
    selects = part & (np.asarray([_selects(marks[i].group) for i in tokens.ids], bool) & (options.select == "best"))
    train = tokens.select(np.flatnonzero(part & ~selects))
    if options.select == "best" and not selects.any():
        raise InputError("No pair selects a step: there are too few groups of openings. Leave --select best out.")
    if not len(train):
        reasons = "".join(f" {n:,} left out: {reason}." for reason, n in tokens.dropped.items())
        remedy = "Raise --max_len, or train on other pairs." if reasons else "Let a smaller share of them validate."
        raise InputError(f"No pair is left to train: {len(validation):,} validate.{reasons} {remedy}")
    weights = weigh(np.asarray([marks[pair_id].v for pair_id in train.ids]))
    selection = tokens.select(np.flatnonzero(selects)) if selects.any() else None
    return Prepared(model, tokens, train, validation, weights=weights, marks=marks, selection=selection)


def _selects(group: str) -> bool:
    """Tell whether a group of near-duplicates is among the twentieth that a step is selected by."""
    return int(hashlib.md5(f"select {group}".encode(), usedforsecurity=False).hexdigest(), 16) % 20 == 0


def _marked(
    weighed: Iterable[WeighedPair], places: Mapping[str, tuple[int, str]], marks: dict[str, Mark]
) -> Iterator[Any]:
    """Yield the pairs under their distinct ids, and write down what else is known of them."""
    for one in weighed:
        opening = one.pair.prefix.id
        density_bin, group = places.get(one.pair_id, (-1, opening))
        v = 1.0 if one.v is None else one.v
        marks[one.pair_id] = Mark(one.part, v, opening, one.pair.src, density_bin, group=group)
        yield replace(one.pair, id=one.pair_id)


def data_facts(prepared: Prepared) -> dict[str, Any]:
    """Return what was read, what was left out and in which density bin, and how uneven the weights are."""
    from kat.training.tokens import prompt_facts

    tokens, train = prepared.tokens, prepared.train
    trained = [prepared.marks[pair_id] for pair_id in train.ids]
    dropped: dict[str, Counter[str]] = {}
    for pair_id, reason in tokens.dropped_ids.items():
        dropped.setdefault(reason, Counter())[str(prepared.marks[pair_id].bin)] += 1
    return {
        "pairs_read": len(tokens) + len(tokens.dropped_ids),
        "train_pairs": len(train),
        "validation_pairs": len(prepared.validation),
        "selection_pairs": 0 if prepared.selection is None else len(prepared.selection),
        "dropped_by_bin": {reason: dict(sorted(counts.items())) for reason, counts in dropped.items()},
        "max_len": tokens.max_len,
        **prompt_facts(tokens.cut, tokens.tools_unread),
        **({"pairs_without_margin": tokens.without_margin} if tokens.without_margin else {}),
        "ess_pairs": effective_sample_size(prepared.weights),
        "pays": who_pays(
            np.asarray([mark.bin for mark in trained]), np.asarray([mark.src for mark in trained]), prepared.weights
        ),
    }


def evaluated(scored: Scored, marks: Mapping[str, Mark]) -> dict[str, Any]:
    from kat.evaluation.evaluate import evaluate
    from kat.evaluation.pairs import EvalPairs

    of_pairs = [marks[pair_id] for pair_id in scored.ids]
    bins = np.asarray([mark.bin for mark in of_pairs])
    pairs = EvalPairs(
        scored.ids, [m.opening for m in of_pairs], [m.src for m in of_pairs], bins if (bins >= 0).any() else None
    )
    return evaluate(pairs, scored.chosen, scored.rejected).as_dict()


def score_lines(scored: Scored, marks: Mapping[str, Mark]) -> Iterator[bytes]:
    """Yield rewards as `kat evaluate-rm` reads them."""
    for pair_id, chosen, rejected in zip(scored.ids, scored.chosen.tolist(), scored.rejected.tolist(), strict=True):
        mark = marks[pair_id]
        row = {"pair_id": pair_id, "chosen": chosen, "rejected": rejected, "opening_id": mark.opening, "src": mark.src}
        yield orjson.dumps(row) + b"\n"
