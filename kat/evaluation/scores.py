"""Files of rewards: JSON lines, parquet, and what RewardBench saves, to numbers and the pairs that they score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from kat.config import MAX_LINE_BYTES
from kat.data.nesting import TOO_DEEP, nests_too_deep
from kat.data.openings import opening_id
from kat.data.readers.bounded import long_line_fault
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
_READ = frozenset({*_IDS, *_SOURCES, *(name for pair in NAMES for name in pair)})
_READ |= {"scores", "num_correct", "opening_id", "prompt"}
_EXPECTED = 'expected rows like {"pair_id": "…", "chosen": 1.5, "rejected": -0.25}.'


class ScoredPair(NamedTuple):
    """What a row says of one pair: its rewards, and who it is, as far as the row knows."""

    pair_id: str | None
    chosen: float
    rejected: float
    opening: str | None
    src: str | None


@dataclass(frozen=True, eq=False)
class Scores:
    """Rewards [P] of chosen and rejected. `opening` and `src` are what the file itself says, None where it does not:
    the pair is then known by its id alone. `numbered` says that ids are line numbers, for the file has none, and `bad`
    how many rows were left out."""

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
        """Return the rows of these ids, in their order; all must be there."""
        row_of = {pair_id: row for row, pair_id in enumerate(self.ids)}
        return np.asarray([row_of[pair_id] for pair_id in ids], np.int64)


def read_scores(
    path: str | Path,
    max_bad_rows: int | str = 0,
    sink: Callable[[bytes], object] | None = None,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Scores:
    """Read the rewards of a file: a row a pair, in JSON lines or parquet, or one of RewardBench's formats.

    A row holds an id (`pair_id` or `id`), two rewards under a pair of NAMES, each a number or a list of one, and
    perhaps `opening_id`, `prompt` or `src`. RewardBench saves one JSON object of columns (`scores_chosen`, …); or,
    in its second version, lists of `scores` of which the first `num_correct` are chosen: every chosen one is
    paired with every rejected one. Its `_all.jsonl` has no ids: rows are known by their numbers then.

    A line of more than `max_line_bytes` is a bad row; a file of one object is a line.

    Raises InputError for a file that is missing or holds no such rows, BadRowsError past `max_bad_rows`.
    """
    path = Path(path)
    rejects = BadRows(path, max_bad_rows, sink)
    scored, numbers = _collected(_rows(path, max_line_bytes), rejects)
    rejects.check(len(scored))
    if not scored:
        raise InputError(f"{path} holds no rewards: {_EXPECTED}")
    numbered = all(pair.pair_id is None for pair in scored)
    if not numbered and any(pair.pair_id is None for pair in scored):
        raise InputError(f"{path}: some rows have an id and others do not; give every row its pair_id.")
    return Scores(
        path=path,
        ids=[str(n) if pair.pair_id is None else pair.pair_id for n, pair in zip(numbers, scored, strict=True)],
        chosen=np.asarray([pair.chosen for pair in scored], np.float64),
        rejected=np.asarray([pair.rejected for pair in scored], np.float64),
        opening=[pair.opening for pair in scored],
        src=[pair.src for pair in scored],
        numbered=numbered,
        bad=rejects.total,
    )


def _use(name: str) -> bool | None:
    """Say of a table's column whether it is read; pictures beside rewards do no harm."""
    return True if name in _READ else None


def _collected(rows: Iterator[Row], rejects: BadRows) -> tuple[list[ScoredPair], list[int]]:
    """Return the scored pairs of a file and the numbers of their rows; a row with a known id or a fault is rejected."""
    scored: list[ScoredPair] = []
    numbers: list[int] = []
    seen: set[str] = set()
    for row in rows:
        try:
            # All pairs of a row or none: a fault in the last of them must leave nothing of the row behind.
            pairs = list(_scored_pairs(row))
            ids = [pair.pair_id for pair in pairs if pair.pair_id is not None]
            if not seen.isdisjoint(ids):
                raise BadRow("an id that stood before")
        except BadRow as bad:
            rejects.add(row, bad.reason)
            continue
        seen.update(ids)
        scored += pairs
        numbers += [row.number] * len(pairs)
    return scored, numbers


def _rows(path: Path, max_line_bytes: int) -> Iterator[Row]:
    """Yield the rows of a file; of one JSON object of columns, a row for each place in them."""
    if path.suffix != ".json":
        for row in read_rows(path, max_line_bytes, _use):
            yield from _spread(row, path)
        return
    if not path.is_file():
        raise InputError(missing_file(path))
    value = _whole(path, max_line_bytes)
    objects = value if isinstance(value, list) else [value]
    for number, columns in enumerate(objects, 1):
        if not isinstance(columns, dict):
            raise InputError(f"{path} holds {type(columns).__name__}; {_EXPECTED}")
        yield from _spread(Row(number, b"", columns), path)


def _whole(path: Path, max_line_bytes: int) -> Any:
    """The one value of a file of JSON. Raises InputError for a file that is none, or too long."""
    if (size := path.stat().st_size) > max_line_bytes:
        raise InputError(f"{path} has {size:,} bytes in one object of JSON; {long_line_fault(max_line_bytes)}.")
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _spread(row: Row, path: Path) -> Iterator[Row]:
    """Yield a row for each place of a row whose values are columns, as RewardBench saves them; else the row itself.

    Raises InputError for a column that is read and has another length than the ids.
    """
    value = row.value or {}
    ids = value.get("id")
    if not isinstance(ids, list):
        yield row
        return
    for name in sorted(_READ & value.keys()):
        if isinstance(column := value[name], list) and len(column) != len(ids):
            sizes = f"{name} has {len(column):,} values, and id {len(ids):,}"
            raise InputError(f"{row.place(path)}: {sizes}; expected one for each pair.")
    columns = {k: v for k, v in value.items() if isinstance(v, list) and len(v) == len(ids)}
    for i in range(len(ids)):
        value_i = {k: v[i] for k, v in columns.items()}
        yield Row(i + 1, _raw(value_i), value_i)


def _raw(value: dict[str, Any]) -> bytes:
    """What to keep of a row that is bad: its JSON; nothing where that is nested deeper than Python writes."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
    except RecursionError:
        return b""


def _scored_pairs(row: Row) -> Iterator[ScoredPair]:
    """Yield the pairs that a row scores: one, or several of a RewardBench 2 row. Raises BadRow."""
    value = row.value
    if value is None:
        raise BadRow(row.fault or "not a JSON object")
    name = next((value[k] for k in _IDS if value.get(k) is not None), None)
    if isinstance(name, bool | float | list | dict):
        raise BadRow("an id that is neither text nor a whole number")
    name = None if name is None else str(name)
    src = next((value[k] for k in _SOURCES if value.get(k) is not None), None)
    if isinstance(src, list | dict) and nests_too_deep(src):
        raise BadRow(f"a source with {TOO_DEEP}")
    src = None if src is None else str(src)
    opening = _opening(value)
    if isinstance(scores := value.get("scores"), list) and "num_correct" in value:
        yield from _several(name, scores, value["num_correct"], opening, src)
        return
    names = next(((a, b) for a, b in NAMES if _numeric(value.get(a)) and _numeric(value.get(b))), None)
    if names is None:
        raise BadRow("no two rewards" if not any(a in value for a, _ in NAMES) else "a reward that is not a number")
    yield ScoredPair(name, _number(value[names[0]]), _number(value[names[1]]), opening, src)


def _several(
    name: str | None, scores: list[Any], correct: Any, opening: str | None, src: str | None
) -> Iterator[ScoredPair]:
    """Yield every pair of a chosen score, which are the first `correct`, and a rejected one. Raises BadRow."""
    if not isinstance(correct, int) or not 0 < correct < len(scores) or not all(map(_numeric, scores)):
        raise BadRow("scores of which num_correct does not say which are chosen")
    if name is None:
        raise BadRow("several scores without an id")
    # All pairs of a row are of one prompt: without an opening, the row's id stands for it.
    opening = opening or f"id {name}"
    for i in range(correct):
        for j in range(correct, len(scores)):
            yield ScoredPair(f"{name}/{i}-{j}", _number(scores[i]), _number(scores[j]), opening, src)


def _opening(value: dict[str, Any]) -> str | None:
    """Return the opening's id, as the row has it or computed from its prompt."""
    if isinstance(known := value.get("opening_id"), str):
        return known
    prompt = value.get("prompt")
    if isinstance(prompt, list):
        turns = (m.get("content") for m in prompt if isinstance(m, dict) and m.get("role") == "user")
        prompt = next((t for t in turns if isinstance(t, str)), None)
    return opening_id(prompt) if isinstance(prompt, str) and prompt.strip() else None


def _numeric(value: Any) -> bool:
    """Return whether a value is a number, or a list of one, as models with one output save it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    try:
        number = float(value[0] if isinstance(value, list) else value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not abs(number) < LARGEST:  # also false of NaN
        raise BadRow(f"a reward that is not finite, or {LARGEST:g} and more")
    return number


def pairs_of(scores: Scores) -> EvalPairs:
    """Return the pairs as the file itself has them: without densities; a pair without an opening is one of its own."""
    opening = [known or f"pair {pair_id}" for known, pair_id in zip(scores.opening, scores.ids, strict=True)]
    return EvalPairs(scores.ids, opening, [src or scores.path.name for src in scores.src])


def check_same_pairs(first: Scores, second: Scores) -> None:
    """Raise MismatchError, naming the first difference, unless both files score the same pairs, in whatever order."""
    for scores, other in ((first, second), (second, first)):
        ids = set(other.ids)
        if missing := [pair_id for pair_id in scores.ids if pair_id not in ids]:
            raise MismatchError(
                f"{other.path} has no rewards for {len(missing):,} pairs of {scores.path}, first {missing[0]}. "
                "Two models are compared on the same pairs."
            )
