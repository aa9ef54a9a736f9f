"""Weights as trainers take them, from a file or a mapping, joined with the rows of a data set by id."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kat.density.storage import load_weights
from kat.errors import InputError, MismatchError, OptionError
from kat.run_folder import RunFolder

if TYPE_CHECKING:
    from datasets import Dataset

    from kat.pair_weights.storage import PairWeights

WEIGHT = "weight"
"""The column of a data set that holds weights."""
_REMEDY = "kat export-weights RUN --to trl writes a data set that has both."


def pair_weights_of(source: str | Path | Mapping[str, float] | PairWeights) -> dict[str, float]:
    """Return {pair id: weight} of the pairs that train, from a file of `kat weigh-pairs`, a run that holds one, the
    same in memory, or a mapping.

    Raises InputError for a weight that is not a finite number from 0 up, OptionError for anything else.
    """
    from kat.pair_weights.storage import PairWeights, read_pair_weights

    if isinstance(source, Mapping):
        weights = {str(name): float(value) for name, value in source.items()}
    elif isinstance(source, PairWeights):
        weights = source.training_weights()
    elif isinstance(source, str | PathLike):
        path = Path(source)
        path = RunFolder(path).pair_weights() if path.is_dir() else path
        weights = read_pair_weights(path).training_weights()
    else:
        raise OptionError(
            f"pair_weights is of type {type(source).__name__}; expected a file of kat weigh-pairs, the pair_weights "
            "that kat.run(…, pair_weights=True) returns, or {pair id: weight}."
        )
    for name, value in weights.items():
        if not _usable(value):
            raise InputError(f"The weight of pair {name} is {value}; expected a finite number from 0 up.")
    return weights


def opening_weights_of(source: str | Path | Mapping[str, float]) -> dict[str, float]:
    """Return {opening id: weight} to draw openings by: w of a folder of weights (or a run that holds one), the blend of
    a file of `kat weigh-pairs`, or a mapping."""
    if isinstance(source, Mapping):
        return {str(name): float(value) for name, value in source.items()}
    path = Path(source)
    if path.is_dir():
        ids, values = load_weights(RunFolder(path).density)
        return dict(zip(ids, np.asarray(values, np.float64).tolist(), strict=True))
    from kat.pair_weights.storage import read_pair_weights

    table = read_pair_weights(path)
    draws = table.draw_weights()
    return {one: draws[one] for one in table.opening_id[table.split == "train"].tolist()}


def with_weights(dataset: Dataset, weights: Mapping[str, float] | None) -> Dataset:
    """Return the data set with a `weight` column, by the id in its `pair_id` column; its own if `weights` is None.

    Raises MismatchError naming the first row without a weight or a pair id that stands twice (a weighted pass repeats
    pairs as often as they weigh: weights would count twice), InputError if there is nothing to join by or a weight of
    the data set's own is not a finite number from 0 up.
    """
    names = list(dataset.column_names or [])
    if "pair_id" in names:
        check_distinct(dataset["pair_id"], "pair id")
    if weights is None:
        _check_own_weights(dataset, names)
        return dataset
    if "pair_id" not in names:
        raise InputError(f"The data set has no column pair_id to join weights by; it has {', '.join(names)}. {_REMEDY}")
    ids = [str(pair_id) for pair_id in dataset["pair_id"]]
    if missing := [(row, pair_id) for row, pair_id in enumerate(ids) if pair_id not in weights]:
        row, pair_id = missing[0]
        raise MismatchError(
            f"{len(missing):,} rows of the data set have no weight, first row {row} with pair id {pair_id}. "
            "Take the rows that train (split is train), or weigh these pairs too."
        )
    if WEIGHT in names:
        dataset = dataset.remove_columns(WEIGHT)
    return dataset.add_column(WEIGHT, [weights[pair_id] for pair_id in ids])


def check_distinct(ids: Iterable[Hashable], what: str) -> None:
    """Check that no id stands twice; `what` says of what they are. Raises MismatchError naming the first that does."""
    counts = Counter(ids)
    repeated = [one for one, count in counts.items() if count > 1]
    if repeated:
        first = repeated[0]
        raise MismatchError(
            f"The data set holds a {what} twice: {first} stands {counts[first]:,} times, and {len(repeated) - 1:,} "
            "others repeat. A pass that is drawn by weight already repeats rows, and would be weighed twice: take the "
            "file that has each row once (kat export-weights RUN --to trl or verl), or a trainer without weights."
        )


def check_prompts(dataset: Dataset) -> None:
    """Check that no prompt stands twice, by the data set's ids of contexts or pairs, or else by what it asks.

    Raises MismatchError naming the first that does.
    """
    names = dataset.column_names or []
    for column in ("context_id", "pair_id"):
        if column in names:
            return check_distinct((str(one) for one in dataset[column]), column.replace("_", " "))
    if "prompt" in names:
        tools = dataset["tools"] if "tools" in names else [None] * len(dataset)
        asked = (json.dumps([prompt, tool]) for prompt, tool in zip(dataset["prompt"], tools, strict=True))
        check_distinct(zip(openings_of(dataset), map(_digest, asked), strict=True), "opening and digest of the prompt")
    return None


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:16]


def openings_of(dataset: Dataset) -> list[str]:
    """Return the opening id of every row, from the column `opening_id` or else computed from `prompt`.

    Raises InputError for a row without a user message.
    """
    if "opening_id" in (dataset.column_names or []):
        return [str(opening) for opening in dataset["opening_id"]]
    from kat.data.openings import opening_id

    ids = []
    for row, prompt in enumerate(dataset["prompt"]):
        text = prompt
        if not isinstance(prompt, str):
            text = next((m["content"] for m in prompt if m["role"] == "user"), None)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Row {row} of the data set has no user message; give it an opening_id.")
        ids.append(opening_id(text))
    return ids


def _check_own_weights(dataset: Dataset, names: list[str]) -> None:
    if WEIGHT not in names:
        raise InputError(f"The data set has no column {WEIGHT}, and no pair_weights were given. {_REMEDY}")
    for row, value in enumerate(dataset[WEIGHT]):
        if value is None or not _usable(value):
            raise InputError(
                f"The data set's weight in row {row} is {value}; expected a finite number from 0 up. "
                "Only pairs that train have one: leave the others out."
            )


def _usable(weight: float) -> bool:
    return bool(np.isfinite(weight)) and weight >= 0
