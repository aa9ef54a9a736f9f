"""Files of rewards: JSON lines, parquet, and what RewardBench saves, to numbers and what they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.data.openings import opening_id
from kat.data.rows import BadRow, BadRows, Row, missing_file, read_rows
from kat.errors import InputError, MismatchError
from kat.evaluation.pairs import EvalPairs

NAMES = (
    ("chosen", "rejected"),
    ("reward_chosen", "reward_rejected"),
    ("chosen_reward", "rejected_reward"),
    ("rewards_chosen", "rewards_rejected"),
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("scores_chosen", "scores_rejected"),
)
"""Columns that hold the two rewards; the first two that a row has, with numbers in them, are taken."""
LARGEST = 1e100
"""Rewards are smaller: sums of what follows from them must stay numbers."""
_IDS = ("pair_id", "id")
_SOURCES = ("src", "source", "subset")


@dataclass(frozen=True, eq=False)
class Scores:
    """Rewards [P] of chosen and rejected. `opening` and `src` are what the file itself says, None where it does not:
    the pair is then known by its id alone. `numbered` says that ids are line numbers, for the file has none."""

    path: Path
    ids: list[str]
    chosen: np.ndarray
    rejected: np.ndarray
    opening: list[str | None]
    src: list[str | None]
    numbered: bool
    bad: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: list[str]) -> np.ndarray:
        """The rows of these ids, in their order; all must be there."""
        place = {one: row for row, one in enumerate(self.ids)}
        return np.asarray([place[one] for one in ids], np.int64)


def read_scores(path: str | Path, max_bad_rows: int | str = 0, sink: Callable[[bytes], object] | None = None) -> Scores:
    """The rewards of a file: a row a pair, in JSON lines or parquet, or one of RewardBench's shapes.

    A row holds an id (`pair_id` or `id`), two rewards under a pair of NAMES, each a number or a list of one, and
    perhaps `opening_id`, `prompt` or `src`. RewardBench saves one JSON object of columns (`scores_chosen`, …); or,
    in its second version, lists of `scores` of which the first `num_correct` are chosen: every chosen one is
    paired with every rejected one. Its `_all.jsonl` has no ids: rows are known by their numbers then.

    Raises InputError for a file that is missing or holds no such rows, BadRowsError past `max_bad_rows`.
    """
    path = Path(path)
    rejects = BadRows(path, max_bad_rows, sink)
    seen: set[str] = set()
    found: list[tuple[str | None, float, float, str | None, str | None]] = []
    numbers: list[int] = []
    for row in _rows(path):
        try:
            made = list(_judgements(row))
            for one in made:
                if one[0] is not None and one[0] in seen:
                    raise BadRow("an id that stood before")
            seen.update(one[0] for one in made if one[0] is not None)
            found += made
            numbers += [row.number] * len(made)
        except BadRow as bad:
            rejects.add(row, bad.reason)
    rejects.check()
    if not found:
        raise InputError(f"{path} holds no rewards: {_EXPECTED}")
    numbered = all(one[0] is None for one in found)
    if not numbered and any(one[0] is None for one in found):
        raise InputError(f"{path}: some rows have an id and others do not; give every row its pair_id.")
    ids = [str(number) if one[0] is None else one[0] for number, one in zip(numbers, found, strict=True)]
    chosen, rejected = (np.asarray([one[i] for one in found], np.float64) for i in (1, 2))
    opening, src = ([one[i] for one in found] for i in (3, 4))
    return Scores(path, ids, chosen, rejected, opening, src, numbered, rejects.total)


_EXPECTED = 'expected rows like {"pair_id": "…", "chosen": 1.5, "rejected": -0.25}.'


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file; of one JSON object of columns, a row for each place in them."""
    if path.suffix != ".json":
        for row in read_rows(path):
            yield from _spread(row)
        return
    if not path.is_file():
        raise InputError(missing_file(path))
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    rows = value if isinstance(value, list) else [value]
    for number, one in enumerate(rows, 1):
        if not isinstance(one, dict):
            raise InputError(f"{path} holds {type(one).__name__}; {_EXPECTED}")
        yield from _spread(Row(number, b"", one))


def _spread(row: Row) -> Iterator[Row]:
    """A row whose rewards are columns, as RewardBench saves them, becomes a row for each place."""
    value = row.value or {}
    ids = value.get("id")
    if not isinstance(ids, list):
        yield row
        return
    columns = {k: v for k, v in value.items() if isinstance(v, list) and len(v) == len(ids)}
    for i in range(len(ids)):
        one = {k: v[i] for k, v in columns.items()}
        yield Row(i + 1, orjson.dumps(one, default=str), one)


def _judgements(row: Row) -> Iterator[tuple[str | None, float, float, str | None, str | None]]:
    """(id, chosen, rejected, opening, source) of a row: one, or several of a RewardBench 2 row."""
    value = row.value
    if value is None:
        raise BadRow(row.fault or "not a JSON object")
    name = next((value[k] for k in _IDS if value.get(k) is not None), None)
    if isinstance(name, bool | float | list | dict):
        raise BadRow("an id that is neither text nor a whole number")
    name = None if name is None else str(name)
    src = next((str(value[k]) for k in _SOURCES if value.get(k) is not None), None)
    opening = _opening(value)
    if isinstance(scores := value.get("scores"), list) and "num_correct" in value:
        yield from _several(name, scores, value["num_correct"], opening, src)
        return
    names = next(((a, b) for a, b in NAMES if _numeric(value.get(a)) and _numeric(value.get(b))), None)
    if names is None:
        raise BadRow("no two rewards" if not any(a in value for a, _ in NAMES) else "a reward that is not a number")
    yield name, _number(value[names[0]]), _number(value[names[1]]), opening, src


def _several(
    name: str | None, scores: list, correct: Any, opening: str | None, src: str | None
) -> Iterator[tuple[str | None, float, float, str | None, str | None]]:
    if not isinstance(correct, int) or not 0 < correct < len(scores) or not all(map(_numeric, scores)):
        raise BadRow("scores of which num_correct does not say which are chosen")
    if name is None:
        raise BadRow("several scores without an id")
    for i in range(correct):
        for j in range(correct, len(scores)):
            yield f"{name}/{i}-{j}", _number(scores[i]), _number(scores[j]), opening or f"id {name}", src


def _opening(value: dict[str, Any]) -> str | None:
    """The opening's id, as the row has it or computed from its prompt."""
    if isinstance(known := value.get("opening_id"), str):
        return known
    prompt = value.get("prompt")
    if isinstance(prompt, list):
        turns = (m.get("content") for m in prompt if isinstance(m, dict) and m.get("role") == "user")
        prompt = next((t for t in turns if isinstance(t, str)), None)
    return opening_id(prompt) if isinstance(prompt, str) and prompt.strip() else None


def _numeric(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    found = float(value[0] if isinstance(value, list) else value)
    if not abs(found) < LARGEST:
        raise BadRow(f"a reward that is not finite, or {LARGEST:g} and more")
    return found


def pairs_of(scores: Scores) -> EvalPairs:
    """The pairs as the file itself knows them: without densities; a pair without an opening is one of its own."""
    opening = [one or f"pair {name}" for one, name in zip(scores.opening, scores.ids, strict=True)]
    return EvalPairs(scores.ids, opening, [one or scores.path.name for one in scores.src])


def check_same_pairs(first: Scores, second: Scores) -> None:
    """Raise MismatchError, naming the first difference, unless both files judge the same pairs, in whatever order."""
    for one, other in ((first, second), (second, first)):
        there = set(other.ids)
        if missing := [i for i in one.ids if i not in there]:
            raise MismatchError(
                f"{other.path} has no rewards for {len(missing):,} pairs of {one.path}, first {missing[0]}. "
                "Two models are compared on the same pairs."
            )
