"""Implicit rewards of a policy: β times how much likelier a completion became than under the reference (DPO)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from kat.packing.trunks import Row
from kat.training.policy import Policy, said
from kat.training.ranks import OneRank, Ranks
from kat.training.steps import PairRow, rows_of_rank
from kat.training.tokens import TokenPairs

Rewards = tuple[torch.Tensor, torch.Tensor]


class SequenceLogProbs:
    """A policy as what scores completions: the log-probability of each, its prompt given; of a token if `per_token`."""

    def __init__(self, policy: Policy, *, per_token: bool = False) -> None:
        self.policy, self.per_token = policy, per_token

    @property
    def device(self) -> torch.device:
        """Return where the policy is."""
        return self.policy.device

    def rewards(self, row: Row, ends: np.ndarray) -> torch.Tensor:
        """Return log-probabilities [E] float32 of the completions that end with these tokens of a row."""
        log_probs = self.policy.log_probs(row)
        sequence = torch.from_numpy(said(row).sequence).to(self.device)
        all_ends = np.concatenate(row.ends)
        sums = log_probs.new_zeros(len(all_ends)).index_add(0, sequence, log_probs)
        if self.per_token:
            sums = sums / torch.bincount(sequence, minlength=len(all_ends)).clamp(min=1)
        order = np.argsort(all_ends)
        places = order[np.searchsorted(all_ends[order], ends)]
        return sums[torch.from_numpy(places).to(self.device)]


class Reference(NamedTuple):
    """Log-probabilities [P] float32 of the pairs' chosen and rejected completions under the reference."""

    chosen: np.ndarray
    rejected: np.ndarray


@dataclass
class ImplicitRewards:
    """The `Rewarder` of DPO: β · (log π − log π_ref) of completions, rows of at most `budget` tokens at a time; ranks
    take rows in turn (Rafailov et al., "Direct preference optimization", NeurIPS 2023, eq. 5)."""

    policy: SequenceLogProbs
    data: TokenPairs
    reference: Reference
    beta: float
    budget: int
    ranks: Ranks | None = None

    def parts(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, Callable[[], Rewards]]]:
        """Yield the pairs of each row, and what computes their implicit rewards."""
        for part in rows_of_rank(self.data, pairs, self.budget, self.ranks or OneRank()):
            yield part.pairs, partial(self._rewards, part)

    def _rewards(self, part: PairRow) -> Rewards:
        ends, place = np.unique(np.concatenate([part.chosen, part.rejected]), return_inverse=True)
        log_probs = self.policy.rewards(part.row, ends)[torch.from_numpy(place).to(self.policy.device)]
        sides = (self.reference.chosen[part.pairs], self.reference.rejected[part.pairs])
        before = torch.from_numpy(np.concatenate(sides)).to(self.policy.device)
        chosen, rejected = (self.beta * (log_probs - before)).chunk(2)
        return chosen, rejected
