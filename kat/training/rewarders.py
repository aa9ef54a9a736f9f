"""The ways to compute the rewards of a step's pairs: through the whole model, or from kept features by the head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kat.packing.trunks import Prompt, Row, plant
from kat.training.ranks import OneRank, Ranks
from kat.training.reward import RewardModel
from kat.training.steps import PairRow, rows_of_rank
from kat.training.tokens import TokenPairs

Rewards = tuple[torch.Tensor, torch.Tensor]


class WholeModel:
    """Rewards through the model, a row of at most `budget` tokens at a time; ranks take rows in turn."""

    def __init__(self, model: RewardModel, data: TokenPairs, budget: int, ranks: Ranks | None = None) -> None:
        self.model, self.data, self.budget = model, data, budget
        self.ranks: Ranks = ranks or OneRank()

    def parts(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, Callable[[], Rewards]]]:
        """Yield the pairs of each row, and what computes their rewards."""
        for part in rows_of_rank(self.data, pairs, self.budget, self.ranks):
            yield part.pairs, partial(self._rewards, part)

    def _rewards(self, part: PairRow) -> Rewards:
        ends, place = np.unique(np.concatenate([part.chosen, part.rejected]), return_inverse=True)
        rewards = self.model.rewards(part.row, ends)[torch.from_numpy(place).to(self.model.device)]
        chosen, rejected = rewards.chunk(2)
        return chosen, rejected


class KeptFeatures:
    """Rewards by the head alone, from features that were computed once: `features` [E, D] float32 of the branches
    `numbers` [E], ascending."""

    def __init__(
        self,
        model: RewardModel,
        data: TokenPairs,
        numbers: np.ndarray,
        features: torch.Tensor,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.features = model, features
        self.ranks: Ranks = ranks or OneRank()
        first = first_branches(data.prompts)
        branches = (first[data.prompt] + side for side in (data.chosen, data.rejected))
        self._chosen, self._rejected = (np.searchsorted(numbers, side) for side in branches)

    def parts(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, Callable[[], Rewards]]]:
        """Yield all pairs at once; one rank computes them."""
        if self.ranks.rank == 0:
            yield pairs, lambda: self._rewards(pairs)

    def _rewards(self, pairs: np.ndarray) -> Rewards:
        both = torch.from_numpy(np.concatenate([self._chosen[pairs], self._rejected[pairs]]))
        chosen, rejected = self.model.from_features(self.features[both]).chunk(2)
        return chosen, rejected


def first_branches(prompts: Iterable[Prompt]) -> np.ndarray:
    """Return the number [N + 1] of each prompt's first branch among all, and how many there are."""
    return np.concatenate([[0], np.cumsum([len(p.branches) for p in prompts])]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class BranchRow:
    """Prompts in one row with all their branches: the numbers [B] of these among all branches, and the tokens [B] of
    the row that they end with."""

    row: Row
    branches: np.ndarray
    ends: np.ndarray


def branch_rows(prompts: Sequence[Prompt], needed: np.ndarray, budget: int) -> Iterator[BranchRow]:
    """Yield prompts with those of their branches that are `needed`, ascending numbers among all (`first_branches`).

    Prompts are in their order, a row of at most `budget` tokens or of one prompt.
    """
    first = first_branches(prompts)
    owner = np.searchsorted(first, needed, side="right") - 1
    held: list[tuple[Prompt, np.ndarray]] = []
    for numbers in np.split(needed, np.flatnonzero(np.diff(owner)) + 1) if len(needed) else []:
        n = int(np.searchsorted(first, numbers[0], side="right")) - 1
        own = [prompts[n].branches[i] for i in (numbers - first[n]).tolist()]
        held.append((Prompt(prompts[n].trunk, own), numbers))
    for places in rows_in_order([prompt.tokens for prompt, _ in held], budget):
        row = plant([held[place][0] for place in places])
        yield BranchRow(row, np.concatenate([held[place][1] for place in places]), np.concatenate(row.ends))


def sequences_of(prompts: Sequence[Prompt], needed: np.ndarray) -> list[np.ndarray]:
    """Return the tokens of some branches, each behind its trunk."""
    first = first_branches(prompts)
    owner = np.searchsorted(first, needed, side="right") - 1
    own = zip(owner.tolist(), (needed - first[owner]).tolist(), strict=True)
    return [np.concatenate([prompts[n].trunk, prompts[n].branches[b]]) for n, b in own]


def tokens_of_branches(prompts: Sequence[Prompt], needed: np.ndarray, *, shared: bool = True) -> int:
    """Return the tokens that some branches and their trunks hold, every trunk once; if not `shared`, once a branch."""
    first = first_branches(prompts)
    owner = np.searchsorted(first, needed, side="right") - 1
    trunks = sum(len(prompts[n].trunk) for n in (np.unique(owner) if shared else owner).tolist())
    return trunks + sum(
        len(prompts[n].branches[b]) for n, b in zip(owner.tolist(), (needed - first[owner]).tolist(), strict=True)
    )


def branches_of(data: TokenPairs, pairs: np.ndarray | None = None) -> np.ndarray:
    """Return the branches that all pairs, or some, compare: ascending numbers among all."""
    first = first_branches(data.prompts)
    both = np.concatenate([first[data.prompt] + data.chosen, first[data.prompt] + data.rejected])
    if pairs is not None:
        both = both.reshape(2, -1)[:, pairs].ravel()
    return np.unique(both)


def branches_digest(prompts: Sequence[Prompt], needed: np.ndarray) -> str:
    """Return a sha256 of the tokens of some branches, and of where trunk and branch end."""
    first, digest = first_branches(prompts), hashlib.sha256()
    owner = np.searchsorted(first, needed, side="right") - 1
    for number, branch in zip(owner.tolist(), (needed - first[owner]).tolist(), strict=True):
        for part in (prompts[number].trunk, prompts[number].branches[branch]):
            digest.update(len(part).to_bytes(8, "little") + np.ascontiguousarray(part, np.int32).tobytes())
    return digest.hexdigest()


def rows_in_order(tokens: list[int], budget: int) -> Iterator[range]:
    """Yield consecutive items that hold at most `budget` tokens together; one that holds more is alone."""
    start, held = 0, 0
    for i, count in enumerate(tokens):
        if i > start and held + count > budget:
            yield range(start, i)
            start, held = i, 0
        held += count
    if start < len(tokens):
        yield range(start, len(tokens))
