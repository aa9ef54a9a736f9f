"""Cross-validated heads: no group on both sides, every pair measured, and weights that help where they must."""

import numpy as np
import pytest
import torch

from kat.errors import InputError, MismatchError
from kat.training.heads import differences, fit_heads
from kat.training.trials import Arm, check_folds, cross_validate, group_folds


def uniform(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows))


def drawn(seed: int, pairs: int = 800, d: int = 6, rare: float = 0.2):
    """Two kinds of pairs with rules of their own, one of them rare; groups of up to four pairs of one kind."""
    rng = np.random.default_rng(seed)
    kind = rng.random(pairs) < rare
    x = rng.normal(size=(pairs, d)).astype(np.float32)
    rules = rng.normal(size=(2, d)) * 1.5
    margin = np.where(kind, x @ rules[1], x @ rules[0])
    x[rng.random(pairs) > 1 / (1 + np.exp(-margin))] *= -1
    group = np.arange(pairs) // 4 * 2 + kind
    return x, kind, group


def test_folds_hold_whole_groups_of_like_size():
    group = np.repeat(np.arange(90), np.random.default_rng(0).integers(1, 9, 90))
    fold = group_folds(group, 5, np.random.default_rng(0))
    assert all(len(set(fold[group == g])) == 1 for g in range(90))
    assert np.ptp(np.bincount(fold)) <= 8
    assert (fold != group_folds(group, 5, np.random.default_rng(1))).any()
    with pytest.raises(InputError, match="2 groups of near-duplicates and 5 folds"):
        group_folds(np.asarray([0, 1, 1]), 5, np.random.default_rng(0))


def test_a_leak_is_caught(monkeypatch):
    x, _, group = drawn(0, pairs=200)
    leaking = lambda group, folds, draw: draw.integers(0, folds, len(group))  # noqa: E731
    monkeypatch.setattr("kat.training.trials.group_folds", leaking)
    with pytest.raises(MismatchError, match="train and are measured, first group"):
        cross_validate(x, group, [Arm("uniform", uniform)], folds=4, seeds=1, permutations=0)
    check_folds(np.asarray([0, 0, 1]), np.asarray([True, True, False]))


def test_margins_are_those_of_a_head_fitted_on_the_other_folds():
    x, kind, group = drawn(1)
    arms = [Arm("uniform", uniform), Arm("rare", lambda rows: np.where(kind[rows], 4.0, 1.0))]
    found = cross_validate(x, group, arms, folds=4, seeds=2, permutations=0, seed=3)
    assert found.margins.shape == (2, 2, 800)
    assert np.isfinite(found.margins).all()
    draw = np.random.default_rng((3, 1))
    fold = group_folds(group, 4, draw)
    for f in range(4):
        train = np.flatnonzero(fold != f)
        data = differences(x, fold != f, dtype=torch.float64)
        for a, arm in enumerate(arms):
            weights = torch.from_numpy(arm.weigh(train))[:, None].double()
            head = fit_heads(data.rows(train), weights, torch.tensor([found.strengths[a, 1, f]]))
            wanted = (data.z[fold == f] @ head[0]).numpy()
            np.testing.assert_allclose(found.margins[a, 1, fold == f], wanted, rtol=1e-3, atol=2e-3)


def accuracy(margins, rows) -> float:
    return float((margins[:, rows] > 0).mean())


def test_weights_for_the_rare_trade_as_they_must_and_permutations_do_not():
    x, kind, group = drawn(2, pairs=3000)
    weigh = lambda rows: np.where(kind[rows], 6.0, 1.0)  # noqa: E731

    def permuted(rows: np.ndarray, number: int) -> np.ndarray:
        return np.random.default_rng(number).permutation(weigh(rows))

    arms = [Arm("uniform", uniform), Arm("rare", weigh, permuted)]
    found = cross_validate(x, group, arms, folds=3, seeds=1, permutations=8)
    plain, rare = found.margins
    assert accuracy(rare, kind) > accuracy(plain, kind) + 0.03
    assert accuracy(rare, ~kind) < accuracy(plain, ~kind) - 0.01
    assert np.isnan(found.permuted_losses[0]).all()
    moved = found.permuted_wins[1][:, kind].mean(1)
    assert moved.shape == (8,)
    assert (found.permuted_losses[1][:, kind].mean(1) > np.logaddexp(0, -rare[:, kind]).mean()).all()
    assert (moved < accuracy(rare, kind)).all()
    assert len(set(moved.tolist())) > 1


def test_a_strength_is_tuned_for_the_pairs_that_are_named():
    x, kind, group = drawn(4, pairs=600)
    arms = [Arm("uniform", uniform), Arm("uniform, tuned for rare", uniform, tuned_on=kind)]
    found = cross_validate(x, group, arms, folds=3, seeds=1, permutations=0)
    assert (found.strengths[0] != found.strengths[1]).any()
    assert (found.strengths > 0).all()
