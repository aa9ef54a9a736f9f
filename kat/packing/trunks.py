"""Token sequences that begin alike, in one row: what they share (a trunk) once, what differs (branches) behind it.

Segments stand depth-first: each is followed at once by all that continues it, its subtree. A query i then sees a key j
exactly if

    j ≤ i < until(j),    until(j) the end of the subtree of j's segment,

which is causal attention along every way from a root to a leaf, and blindness between branches. Positions go on from
where the trunk ends, so that a token has the hidden state that it would have in its own sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class TrunkLayout:
    """The segments of one row: `lengths` [S] int64, all above 0, and `parents` [S] int64, the segment that each
    continues, −1 for none. A segment stands after its parent, with nothing but their common subtree between.

    Like `kat.packing.layout.Layout` it goes to a model as the keyword argument `layout`. Every property is computed
    once and kept, for each layer asks again.
    """

    lengths: np.ndarray
    parents: np.ndarray

    @cached_property
    def bounds(self) -> np.ndarray:
        """Return [S + 1] int64: segment s is tokens bounds[s] … bounds[s + 1] − 1."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def total(self) -> int:
        """Return the tokens of the row, T."""
        return int(self.bounds[-1])

    @cached_property
    def until(self) -> np.ndarray:
        """Return [S] int64: the token after the last one of each segment's subtree."""
        until = self.bounds[1:].copy()
        for segment in range(len(until) - 1, -1, -1):  # children before parents
            if (parent := self.parents[segment]) >= 0:
                until[parent] = max(until[parent], until[segment])
        return until

    @cached_property
    def offsets(self) -> np.ndarray:
        """Return [S] int64: the tokens before each segment in the sequences that go through it."""
        offsets = np.zeros(len(self.lengths), np.int64)
        for segment, parent in enumerate(self.parents):
            if parent >= 0:
                offsets[segment] = offsets[parent] + self.lengths[parent]
        return offsets

    @cached_property
    def positions(self) -> np.ndarray:
        """Return [T] int64: each token's place in its sequences, from 0."""
        return np.arange(self.total) - np.repeat(self.bounds[:-1] - self.offsets, self.lengths)

    @cached_property
    def previous(self) -> np.ndarray:
        """Return [T] int64: the token of the row before each one in its sequences, −1 before the first."""
        previous = np.arange(self.total) - 1
        starts, parents = self.bounds[:-1], self.parents
        previous[starts] = np.where(parents >= 0, self.bounds[1:][parents] - 1, -1)
        return previous

    def sequence(self, end: int) -> np.ndarray:
        """Return the tokens of the row that the sequence through token `end` is made of, as far as there."""
        segment = int(np.searchsorted(self.bounds, end, "right")) - 1
        parts = [np.arange(self.bounds[segment], end + 1)]
        while (segment := int(self.parents[segment])) >= 0:
            parts.append(np.arange(self.bounds[segment], self.bounds[segment + 1]))
        return np.concatenate(parts[::-1])

    @cached_property
    def longest(self) -> int:
        """Return the tokens of the longest sequence."""
        return int((self.offsets + self.lengths).max())

    @cached_property
    def trees(self) -> np.ndarray:
        """Return [R + 1] int64: what begins with one root is tokens trees[r] … trees[r + 1] − 1."""
        return np.append(self.bounds[:-1][self.parents < 0], self.total)

    @cached_property
    def masks(self) -> dict[tuple[bool, int | None, str], Any]:
        """Return where FlexAttention's masks are kept, by causal, window and device."""
        return {}

    @cached_property
    def _on_devices(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a device's masks read: each token's `until` [T] and position [T], int64."""
        import torch

        if str(device) not in self._on_devices:
            until = torch.from_numpy(np.repeat(self.until, self.lengths)).to(device)
            self._on_devices[str(device)] = (until, torch.from_numpy(self.positions).to(device))
        return self._on_devices[str(device)]


class Prompt(NamedTuple):
    """Token ids that several sequences begin with (there may be none), and what each of them goes on with."""

    trunk: np.ndarray
    branches: Sequence[np.ndarray]

    @property
    def tokens(self) -> int:
        """Return the tokens that are computed for it alone."""
        return len(self.trunk) + sum(map(len, self.branches))


class Row(NamedTuple):
    """Token ids [T] int64 of prompts in one row, their layout, and the token [B] that each branch of each prompt ends
    with, in the order that they were given in."""

    tokens: np.ndarray
    layout: TrunkLayout
    ends: list[np.ndarray]


def plant(prompts: Sequence[Prompt]) -> Row:
    """Return prompts as one row. A trunk that begins with another's tokens continues that one; equal ones are one.

    Raises ValueError for no prompt, a prompt without branches, or an empty branch.
    """
    if not prompts or not all(p.branches and all(map(len, p.branches)) for p in prompts):
        raise ValueError("A row needs at least one prompt, each with branches of at least one token.")
    parts: list[np.ndarray] = []
    parents: list[int] = []
    ends = [np.zeros(len(p.branches), np.int64) for p in prompts]
    above: list[tuple[np.ndarray, int]] = []  # the trunks that the next may continue, and the segments they end in
    start = 0

    def add(tokens: np.ndarray, parent: int) -> int:
        nonlocal start
        parts.append(tokens)
        parents.append(parent)
        start += len(tokens)
        return len(parts) - 1

    for number in _trunks_in_order(prompts):
        trunk, branches = prompts[number]
        while above and not _begins(above[-1][0], trunk):
            above.pop()
        known, segment = above[-1] if above else (trunk[:0], -1)
        if len(trunk) > len(known):
            segment = add(trunk[len(known) :], segment)
            above.append((trunk, segment))
        # By length: neighbours of one length share a product.
        for branch in sorted(range(len(branches)), key=lambda b: len(branches[b])):
            add(branches[branch], segment)
            ends[number][branch] = start - 1
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    return Row(np.concatenate(parts).astype(np.int64), TrunkLayout(lengths, np.asarray(parents, np.int64)), ends)


def _trunks_in_order(prompts: Sequence[Prompt]) -> list[int]:
    """Return the prompts' numbers so that each trunk comes before, and next to, those that begin with it.

    Every trunk stands where the first of its tree stood: the order of the row is the caller's.
    """
    ordered = sorted(range(len(prompts)), key=lambda n: prompts[n].trunk.tolist())
    trees: list[list[int]] = []
    for number in ordered:
        if trees and len(prompts[trees[-1][0]].trunk) and _begins(prompts[trees[-1][0]].trunk, prompts[number].trunk):
            trees[-1].append(number)
        else:
            trees.append([number])
    return [number for tree in sorted(trees, key=min) for number in tree]


def _begins(first: np.ndarray, tokens: np.ndarray) -> bool:
    return len(first) <= len(tokens) and bool((tokens[: len(first)] == first).all())
