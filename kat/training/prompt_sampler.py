"""Which prompts a step asks: openings by systematic sampling in proportion to weight, their contexts in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kat.density.opening_order import OpeningOrder, pass_seed
from kat.density.sampling import draw_pass
from kat.records import Message, Prefix


@dataclass(frozen=True)
class Asked:
    """A context to ask, its opening's id, its own id, and the density bin of the opening (−1: not known)."""

    messages: list[Message]
    opening_id: str
    context_id: str
    bin: int = -1
    tools: list[dict[str, Any]] | None = None

    @property
    def prefix(self) -> Prefix:
        """Return the context as a prefix, under its opening's id."""
        return Prefix(self.opening_id, self.messages)


def some_of_each_bin(asked: Iterable[Asked], count: int) -> list[Asked]:
    """Return `count` prompts of each density bin, of different openings, by the order of their ids: as good as drawn,
    for these are hashes, and the same for every arm."""
    kept: dict[int, dict[str, Asked]] = {}
    for one in sorted(asked, key=lambda a: a.context_id):
        of_bin = kept.setdefault(one.bin, {})
        if len(of_bin) < count:
            of_bin.setdefault(one.opening_id, one)
    return [one for b in sorted(kept) for one in kept[b].values()]


class PromptSampler(Protocol):
    """What draws prompts, by number; all ranks ask theirs alike and get the same."""

    def draw(self, count: int, bins: Sequence[int] | None = None) -> np.ndarray:
        """Return `count` prompts; with `bins`, one of each of these density bins."""

    def observe(self, prompts: np.ndarray, rewards: np.ndarray) -> None:
        """Take notice of the rewards [N, G] of drawn prompts [N]."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values that say how far the draws are."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class SystematicSampler:
    """Draw prompts whose openings have weights {opening id: w}: in a pass of n draws, n the number of openings, each is
    drawn ⌊n·w/Σw⌋ or ⌈n·w/Σw⌉ times, in random order; its contexts take turns.

    The weight is in the draw alone: as a factor of a reward it would cancel in the group's normalisation. Raises
    MismatchError naming the first opening without a weight.
    """

    def __init__(self, prompts: Sequence[Asked], weights: Mapping[str, float], seed: int = 0) -> None:
        order = OpeningOrder([prompt.opening_id for prompt in prompts], weights, seed)
        place = {name: number for number, name in enumerate(order.names)}
        self._contexts: list[list[int]] = [[] for _ in order.names]
        self._bins: dict[int | None, list[int]] = {None: list(range(len(order.names)))}
        for row, prompt in enumerate(prompts):
            number = place[prompt.opening_id]
            if not self._contexts[number]:
                self._bins.setdefault(prompt.bin, []).append(number)
            self._contexts[number].append(row)
        self._weights, self._seed = order.weights, seed
        sizes = [len(rows) for rows in self._contexts]
        self._turns = np.random.default_rng([seed, len(sizes)]).integers(0, sizes)
        self._drawn = dict.fromkeys(self._bins, 0)
        self._pass: dict[int | None, tuple[int, np.ndarray]] = {}

    def draw(self, count: int, bins: Sequence[int] | None = None) -> np.ndarray:
        """Return prompts by number: see `PromptSampler`."""
        numbers: Sequence[int | None] = [None] * count if bins is None else bins
        return np.asarray([self._next(number) for number in numbers], np.int64)

    def _next(self, number: int | None) -> int:
        openings = self._bins[number]
        turn, place = divmod(self._drawn[number], len(openings))
        self._drawn[number] += 1
        if self._pass.get(number, (-1,))[0] != turn:
            seed = pass_seed(self._seed, turn) + (0 if number is None else 2 + number)
            self._pass[number] = (turn, draw_pass(self._weights[openings], len(openings), seed))
        opening = openings[self._pass[number][1][place]]
        rows = self._contexts[opening]
        self._turns[opening] += 1
        return rows[self._turns[opening] % len(rows)]

    def observe(self, prompts: np.ndarray, rewards: np.ndarray) -> None:
        """Take no notice."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of draws, of all and of each bin, and whose turn it is."""
        drawn = [[-2 if number is None else number, count] for number, count in self._drawn.items()]
        return {"drawn": drawn, "turns": self._turns.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after as many draws."""
        for number, drawn in state["drawn"]:
            self._drawn[None if number == -2 else number] = drawn
        self._turns = np.asarray(state["turns"], np.int64)
