"""Weightings of pairs tried against each other: cross-validated reward heads on features that are computed once.

Every pair is measured by heads that no near-duplicate of it trained. In each fold all weightings, and permutations of
them, are fitted together, each with an L2 strength of its own, tuned on folds inside of the pairs that train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from kat.errors import InputError, MismatchError
from kat.evaluation.metrics import log_losses, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import Tried, try_weightings
from kat.training.heads import Differences, choose_strengths, differences, fit_heads

INNER_FOLDS = 3
TUNED_PERMUTATIONS = 3
"""Permutations of a weighting that its permutations' common strength is tuned on."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A weighting: `weigh(rows)` gives the weights [n] of the pairs `rows` [n] that train in a fold.

    `permuted(rows, number)` gives those of one of its permutations; None for a weighting without geometry. `tuned_on`
    [P] marks the pairs that its L2 strength is tuned for, all by default.
    """

    name: str
    weigh: Callable[[np.ndarray], np.ndarray]
    permuted: Callable[[np.ndarray, int], np.ndarray] | None = None
    tuned_on: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Trials:
    """What heads said of P pairs that they did not train on, in S seeds of F folds.

    `margins` [A, S, P] float32 are of the arms, in their order, `strengths` [A, S, F] their L2 strengths. Of their
    permutations `permuted_losses` and `permuted_wins` [A, R, P] float32 are log-losses and wins, the mean over the
    seeds, NaN for an arm without. Not their margins: the folds' permutations differ, and a mean of their margins would
    be better than any of them.
    """

    names: tuple[str, ...]
    margins: np.ndarray
    permuted_losses: np.ndarray
    permuted_wins: np.ndarray
    strengths: np.ndarray

    def only(self, arms: Sequence[int]) -> Trials:
        """Return some of the arms, by number."""
        chosen = np.asarray(arms)
        columns = {field.name: getattr(self, field.name)[chosen] for field in fields(self) if field.name != "names"}
        return Trials(tuple(self.names[a] for a in arms), **columns)

    def compared(self, pairs: EvalPairs, *, replicates: int = 1000, seed: int = 0) -> list[Tried]:
        """Compare every arm but the first, which is uniform, with it, on the pairs [P]: `try_weightings`."""
        return try_weightings(
            pairs,
            self.names,
            self.margins,
            permuted_losses=self.permuted_losses,
            permuted_wins=self.permuted_wins,
            replicates=replicates,
            seed=seed,
        )


def group_folds(group: np.ndarray, folds: int, draw: np.random.Generator) -> np.ndarray:
    """Return the fold [P] of each pair, whole groups in one: groups [P] int in random order, to the smallest fold.

    Raises InputError for fewer groups than folds.
    """
    _, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
    if len(sizes) < folds:
        raise InputError(f"There are {len(sizes):,} groups of near-duplicates and {folds} folds; give fewer --folds.")
    held, fold = np.zeros(folds, np.int64), np.empty(len(sizes), np.int64)
    order = draw.permutation(len(sizes))
    for one in order[np.argsort(-sizes[order], kind="stable")].tolist():
        fold[one] = int(np.argmin(held))
        held[fold[one]] += sizes[one]
    return fold[place]


def cross_validate(
    x: np.ndarray,
    group: np.ndarray,
    arms: Sequence[Arm],
    *,
    folds: int,
    seeds: int,
    permutations: int,
    seed: int = 0,
    on_fold: Callable[[], object] = lambda: None,
) -> Trials:
    """Return the margins of all pairs, each from heads of folds that its group took no part in.

    `x` [P, D] are differences of features, chosen less rejected, and `group` [P] int the groups of near-duplicates.
    Some 4 · P · D operations an iteration for each arm, permutation and tried strength; memory is a few times that of x
    and of [P, arms · strengths].

    Raises InputError for fewer groups than folds.
    """
    moving = [a for a, arm in enumerate(arms) if arm.permuted is not None]
    margins = np.full((len(arms), seeds, len(x)), np.nan, np.float32)
    losses, won = (np.full((len(arms), permutations, len(x)), np.nan, np.float32) for _ in range(2))
    losses[moving], won[moving] = 0, 0
    strengths = np.zeros((len(arms), seeds, folds))
    for s in range(seeds):
        draw = np.random.default_rng((seed, s))
        fold = group_folds(group, folds, draw)
        for f in range(folds):
            held = fold == f
            check_folds(group, held)
            told = fit_fold(x, np.flatnonzero(~held), group, arms, permutations=permutations, draw=draw)
            strengths[:, s, f], heads = told.strengths, told.heads
            said = (told.data.z[torch.from_numpy(held)] @ heads.T).T.numpy()
            margins[:, s, held] = said[: len(arms)]
            for place, a in enumerate(moving):
                own = said[len(arms) + place * permutations :][:permutations]
                losses[a][:, held] += log_losses(own) / seeds
                won[a][:, held] += wins(own) / seeds
            on_fold()
    return Trials(tuple(arm.name for arm in arms), margins, losses, won, strengths)


def check_folds(group: np.ndarray, held: np.ndarray) -> None:
    """Raise MismatchError if a group [P] is among the pairs that are held out, `held` [P], and among the others."""
    if len(both := np.intersect1d(group[held], group[~held])):
        raise MismatchError(f"{len(both):,} groups of near-duplicates train and are measured, first group {both[0]}.")


@dataclass(frozen=True, eq=False)
class Fold:
    """Heads [A + R, D] of A arms, then of all R permutations, in the axes of `data`, which holds every pair, those that
    did not train too; `strengths` [A] are the arms' L2 strengths."""

    data: Differences
    heads: torch.Tensor
    strengths: np.ndarray


def fit_fold(
    x: np.ndarray,
    train: np.ndarray,
    group: np.ndarray,
    arms: Sequence[Arm],
    *,
    permutations: int,
    draw: np.random.Generator,
) -> Fold:
    """Return the heads of all arms, then of the permutations of those that have some, fitted on the pairs `train`.

    `x` [P, D] and `group` [P] are of all pairs, `train` [n] the rows of those that train. L2 is tuned on folds of them.
    """
    among = np.zeros(len(x), bool)
    among[train] = True
    every = differences(x, among)
    data = every.rows(train)
    own = [arm.weigh(train) for arm in arms]
    moved = [list(_permuted(arm, train, permutations)) for arm in arms if arm.permuted is not None]
    inner = group_folds(group[train], INNER_FOLDS, draw)
    parts = [(np.flatnonzero(inner != i), np.flatnonzero(inner == i)) for i in range(INNER_FOLDS)]
    all_pairs = np.ones(len(train), bool)
    scored = [all_pairs if arm.tuned_on is None else arm.tuned_on[train] for arm in arms]
    tuned = [weights for each in moved for weights in each[:TUNED_PERMUTATIONS]]
    pooled = [*range(len(arms)), *(len(arms) + i for i, each in enumerate(moved) for _ in each[:TUNED_PERMUTATIONS])]
    columns = torch.from_numpy(np.stack([*own, *tuned], 1)).float()
    strengths = choose_strengths(data, columns, parts, [*scored, *(all_pairs for _ in moved)], np.asarray(pooled))
    weights = torch.from_numpy(np.stack([*own, *(w for each in moved for w in each)], 1)).float()
    l2 = np.concatenate([strengths[: len(arms)], np.repeat(strengths[len(arms) :], permutations)])
    return Fold(every, fit_heads(data, weights, torch.from_numpy(l2)), strengths[: len(arms)])


def _permuted(arm: Arm, train: np.ndarray, permutations: int) -> Iterator[np.ndarray]:
    assert arm.permuted is not None
    for number in range(permutations):
        yield arm.permuted(train, number)
