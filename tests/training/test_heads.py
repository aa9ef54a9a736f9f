"""Heads that are fitted together against scikit-learn's logistic regression, one at a time."""

import numpy as np
import pytest
import torch

from kat.training.heads import STRENGTHS, choose_strengths, differences, fit_heads


def drawn(seed: int = 0, pairs: int = 600, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Differences of unequal spread, mostly on the side of a true head, and weights of three arms."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(pairs, d)) * np.logspace(0.5, -1.5, d)
    x = x @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    margin = x @ rng.normal(size=d)
    x[rng.random(pairs) > 1 / (1 + np.exp(-margin))] *= -1
    return x, np.stack([np.ones(pairs), np.exp(rng.normal(size=pairs)), rng.pareto(1.5, pairs) + 0.01], 1)


def peer(x: np.ndarray, v: np.ndarray, l2: float, scale: float) -> np.ndarray:
    """scikit-learn's head of differences, half of each pair's weight on either side of 0."""
    from sklearn.linear_model import LogisticRegression

    both, label = np.concatenate([x, -x]) / scale, np.repeat([1, 0], len(x))
    model = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(both, label, sample_weight=np.tile(v / v.sum() / 2, 2))
    return model.coef_[0]


@pytest.mark.parametrize("l2", [1e-5, 1e-3, 0.1])
def test_heads_are_those_of_a_peer(l2):
    x, v = drawn()
    data = differences(x, dtype=torch.float64)
    heads = fit_heads(data, torch.from_numpy(v), torch.full((3,), l2, dtype=torch.float64))
    for arm in range(3):
        wanted = peer(x, v[:, arm], l2, data.scale)
        found = (data.axes @ heads[arm]).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def test_heads_in_single_precision_are_near():
    x, v = drawn(1)
    l2 = torch.tensor([1e-5, 1e-3, 0.1], dtype=torch.float64)
    one, other = (
        fit_heads(differences(x, dtype=t), torch.from_numpy(v).to(t), l2) for t in (torch.float64, torch.float32)
    )
    data = differences(x, dtype=torch.float64)
    assert float((data.z @ (one - other.double()).T).abs().max()) < 5e-3


def test_heads_fitted_together_are_those_fitted_alone():
    x, v = drawn(2)
    data = differences(x, dtype=torch.float64)
    l2 = torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64)
    together = fit_heads(data, torch.from_numpy(v), l2)
    for arm in range(3):
        alone = fit_heads(data, torch.from_numpy(v[:, arm : arm + 1]), l2[arm : arm + 1])
        np.testing.assert_allclose(together[arm], alone[0], rtol=1e-6, atol=1e-8)


def test_scaling_weights_or_features_changes_no_margin():
    x, v = drawn(3)
    l2 = torch.full((3,), 1e-3, dtype=torch.float64)
    one = differences(x, dtype=torch.float64)
    other = differences(x * 40, dtype=torch.float64)
    first, second = fit_heads(one, torch.from_numpy(v), l2), fit_heads(other, torch.from_numpy(v * 7), l2)
    np.testing.assert_allclose(one.z @ first.T, other.z @ second.T, rtol=1e-5, atol=1e-7)


def test_axes_are_of_the_pairs_that_train():
    x, _ = drawn(4)
    among = np.arange(600) < 400
    data, alone = differences(x, among), differences(x[:400])
    np.testing.assert_allclose(data.curvature, alone.curvature, rtol=1e-4)
    assert data.scale == pytest.approx(alone.scale)
    np.testing.assert_allclose(data.z.square().sum(1), np.square(x / data.scale).sum(1), rtol=1e-4)


def test_separable_pairs_and_features_without_spread_come_to_an_end():
    x = np.abs(np.random.default_rng(0).normal(size=(50, 4)))
    heads = fit_heads(differences(x), torch.ones(50, 2), torch.tensor([1e-6, 1.0]))
    assert torch.isfinite(heads).all()
    assert (differences(x).z @ heads[0] > 0).all()
    nothing = fit_heads(differences(np.zeros((5, 3))), torch.ones(5, 1), torch.tensor([0.1]))
    assert nothing.abs().max() == 0


def test_strengths_are_where_the_loss_of_other_pairs_is_lowest():
    x, v = drawn(5, pairs=900)
    data = differences(x, dtype=torch.float64)
    fold = np.arange(900) % 3
    folds = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(3)]
    rare = np.arange(900) < 180
    weights = torch.from_numpy(v)
    found = choose_strengths(
        data, weights, folds, [np.ones(900, bool), rare, np.ones(900, bool)], np.asarray([0, 1, 2])
    )
    for arm, wanted in enumerate([np.ones(900, bool), rare, np.ones(900, bool)]):
        losses = []
        for l2 in [*STRENGTHS, found[arm]]:
            total = 0.0
            for train, held in folds:
                head = fit_heads(data.rows(train), weights[train][:, arm : arm + 1], torch.tensor([l2]).double())
                loss = torch.nn.functional.softplus(-(data.z[held] @ head[0]))
                total += float(loss[wanted[held]].sum())
            losses.append(total)
        assert losses[-1] <= min(losses[:-1]) * (1 + 1e-3)  # between the strengths that were tried


def test_arms_of_several_columns_share_a_strength():
    x, v = drawn(6)
    data = differences(x, dtype=torch.float64)
    fold = np.arange(600) % 2
    folds = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(2)]
    every = [np.ones(600, bool)]
    one = choose_strengths(data, torch.from_numpy(v[:, [1, 1]]), folds, every, np.asarray([0, 0]))
    other = choose_strengths(data, torch.from_numpy(v[:, [1]]), folds, every, np.asarray([0]))
    assert one == pytest.approx(other, rel=1e-6)
