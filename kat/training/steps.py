"""Which pairs make a step, and which prompts make a row: a function of the pairs, the options and the seed alone.

A step holds whole prompts, B pairs at most, for a prompt's trunk is computed once for all pairs that stand in the same
step. A prompt with more pairs is spread over several steps, and its trunk is computed again in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kat.density.sampling import draw_pass
from kat.packing.trunks import Prompt, Row, plant
from kat.training.tokens import TokenPairs

if TYPE_CHECKING:
    from kat.training.ranks import Ranks

_OPEN = 64
"""Steps with room that are looked through for each prompt: with more of them steps would hardly be fuller."""


def steps_of_pass(
    prompt: np.ndarray, batch: int, generator: np.random.Generator, counts: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the steps of one pass over pairs of prompts `prompt` [P], each of at most `batch` pairs, in random order.

    `counts` [P] says how often each pair stands in the pass, once unless told; its repeats are in different steps.
    Prompts are put, in random order, into the first step that has room for them and does not hold them yet, of the
    steps that are open; the fullest is closed where there are many.
    """
    counts = np.ones(len(prompt), np.int64) if counts is None else counts
    parts = _parts(prompt, batch, counts, generator)
    steps: list[list[np.ndarray]] = []
    held: list[set[int]] = []
    room: list[int] = []
    open_steps: list[int] = []
    for number, pairs in parts:
        place = next((s for s in open_steps if room[s] >= len(pairs) and number not in held[s]), None)
        if place is None:
            place = len(steps)
            steps.append([])
            held.append(set())
            room.append(batch)
            open_steps.append(place)
        steps[place].append(pairs)
        held[place].add(number)
        room[place] -= len(pairs)
        if not room[place]:
            open_steps.remove(place)
        elif len(open_steps) > _OPEN:
            open_steps.remove(min(open_steps, key=room.__getitem__))
    order = generator.permutation(len(steps))
    return [np.concatenate(steps[s]) for s in order.tolist()]


def _parts(
    prompt: np.ndarray, batch: int, counts: np.ndarray, generator: np.random.Generator
) -> list[tuple[int, np.ndarray]]:
    """Return (prompt, pairs) for every part of a prompt that stands in a step as a whole, in random order."""
    order = np.argsort(prompt, kind="stable")
    cuts = np.flatnonzero(np.diff(prompt[order])) + 1
    parts = []
    for pairs in np.split(order, cuts):
        if not len(pairs):
            continue
        shuffled = generator.permutation(pairs)
        for repeat in range(int(counts[pairs].max())):
            again = shuffled[counts[shuffled] > repeat]
            parts += [(int(prompt[pairs[0]]), part) for part in np.split(again, range(batch, len(again), batch))]
    return [parts[i] for i in generator.permutation(len(parts)).tolist()]


def systematic_counts(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return how often each pair [P] of weight v stands in a pass: ⌊v⌋ or ⌈v⌉ times, v on average, Σv in all.

    The systematic draw of `kat.density.sampling.draw_pass`. Raises InputError for a weight that is not above 0.
    """
    draws = round(float(np.sum(weights, dtype=np.float64)))
    return np.bincount(draw_pass(weights, draws, int(generator.integers(1 << 62))), minlength=len(weights))


@dataclass(frozen=True, eq=False)
class PairRow:
    """Prompts in one row, and the pairs over them: `pairs` [p] are their numbers, and the rewards of `chosen` and
    `rejected` [p] stand at these tokens of the row."""

    row: Row
    pairs: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


def rows_of_step(data: TokenPairs, pairs: np.ndarray, budget: int) -> Iterator[PairRow]:
    """Yield the rows of a step: its prompts, with the branches that its pairs name, up to `budget` tokens a row.

    A prompt of more tokens has a row of its own. Longer prompts come first, so that rows are filled well.
    """
    by_prompt: dict[int, list[int]] = {}
    for pair in pairs.tolist():
        by_prompt.setdefault(int(data.prompt[pair]), []).append(pair)
    used = {number: np.unique([data.chosen[own], data.rejected[own]]) for number, own in by_prompt.items()}
    prompts = {n: Prompt(data.prompts[n].trunk, [data.prompts[n].branches[b] for b in used[n]]) for n in by_prompt}
    for numbers in _rows({n: prompts[n].tokens for n in prompts}, budget):
        row = plant([prompts[n] for n in numbers])
        of_row = [np.asarray(by_prompt[n], np.int64) for n in numbers]
        tokens = [
            [ends[np.searchsorted(used[n], side[own])] for side in (data.chosen, data.rejected)]
            for n, own, ends in zip(numbers, of_row, row.ends, strict=True)
        ]
        chosen, rejected = (np.concatenate([sides[i] for sides in tokens]) for i in (0, 1))
        yield PairRow(row, np.concatenate(of_row), chosen, rejected)


def rows_of_rank(data: TokenPairs, pairs: np.ndarray, budget: int, ranks: Ranks) -> Iterator[PairRow]:
    """Yield the rows of a step that this process computes: several take rows in turn."""
    return islice(rows_of_step(data, pairs, budget), ranks.rank, None, ranks.count)


def _rows(tokens: dict[int, int], budget: int) -> list[list[int]]:
    """Return prompts by row: the longest first, each into the first row with room (first-fit decreasing)."""
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(tokens, key=lambda n: (-tokens[n], n)):
        place = next((r for r, left in enumerate(room) if left >= tokens[number]), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(budget)
        rows[place].append(number)
        room[place] -= tokens[number]
    return rows


def token_counts(data: TokenPairs, steps: Sequence[np.ndarray], *, shared: bool = True) -> dict[str, int]:
    """Return the tokens that some steps compute, and those of the same pairs one sequence at a time ("separate") and
    with each pair's trunk once ("pair_trunk").

    A step computes each distinct branch once, and its trunk once, or if not `shared` with each of its branches.
    """
    counts = {"tokens": 0, "separate": 0, "pair_trunk": 0}
    for pairs in steps:
        columns = (column[pairs].tolist() for column in (data.prompt, data.chosen, data.rejected))
        trunks: set[int] = set()
        branches: set[tuple[int, int]] = set()
        for number, *both in zip(*columns, strict=True):
            prompt = data.prompts[number]
            own = sum(len(prompt.branches[b]) for b in both)
            counts["separate"] += own + 2 * len(prompt.trunk)
            counts["pair_trunk"] += own + len(prompt.trunk)
            trunks.add(number)
            branches.update((number, b) for b in both)
        counts["tokens"] += sum(len(data.prompts[n].trunk) for n in (trunks if shared else (n for n, _ in branches)))
        counts["tokens"] += sum(len(data.prompts[n].branches[b]) for n, b in branches)
    return counts
