"""Losses against closed forms, and gradients against the derivative by hand."""

import math

import pytest
import torch

from kat.training.losses import bradley_terry


def draws(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    chosen, rejected, margins = (torch.randn(n, generator=draw) for _ in range(3))
    return chosen.requires_grad_(), rejected.requires_grad_(), torch.rand(n, generator=draw) * 3, margins.abs()


def test_weights_of_one_are_the_plain_loss():
    chosen, rejected, *_ = draws(9)
    loss, sums = bradley_terry(chosen, rejected, torch.ones(9), torch.zeros(9), nominal=9)
    by_hand = [math.log1p(math.exp(r - c)) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    assert loss.item() == pytest.approx(sum(by_hand) / 9, rel=1e-6)
    assert sums["loss"] == pytest.approx(sum(by_hand), rel=1e-6)
    assert sums["loss"] == sums["weighted_loss"]


def test_loss_and_gradient_with_weights_margins_and_centre_are_those_by_hand():
    chosen, rejected, weights, margins = draws(7)
    loss, sums = bradley_terry(chosen, rejected, weights, margins, nominal=20, center=0.3)
    loss.backward()
    total = 0.0
    for i in range(7):
        c, r, v, m = (x[i].item() for x in (chosen, rejected, weights, margins))
        total += (v * math.log1p(math.exp(-(c - r - m))) + 0.3 * (c + r) ** 2) / 20
        slope, centre = -v / (1 + math.exp(c - r - m)) / 20, 2 * 0.3 * (c + r) / 20
        assert float(chosen.grad[i]) == pytest.approx(slope + centre, abs=1e-6)
        assert float(rejected.grad[i]) == pytest.approx(-slope + centre, abs=1e-6)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert sums["weight"] == pytest.approx(float(weights.sum()))
    assert sums["margin"] == pytest.approx(float((chosen - rejected).sum()), abs=1e-6)


def test_a_pairs_part_does_not_depend_on_its_batch_mates():
    chosen, rejected, weights, margins = draws(8)
    whole, sums = bradley_terry(chosen, rejected, weights, margins, nominal=8, center=0.1)
    whole.backward()
    gradients = chosen.grad.clone()
    chosen.grad = None
    parts = [torch.tensor(rows) for rows in ([3], [0, 1, 7], [2, 4, 5, 6])]
    losses = [bradley_terry(*(x[p] for x in (chosen, rejected, weights, margins)), 8, 0.1) for p in parts]
    sum(loss for loss, _ in losses).backward()
    torch.testing.assert_close(chosen.grad, gradients)
    assert float(sum(loss for loss, _ in losses)) == pytest.approx(float(whole), rel=1e-6)
    for name, value in sums.items():
        assert sum(part[name] for _, part in losses) == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_the_centre_takes_no_weights():
    chosen, rejected, _, margins = draws(5)
    nothing = torch.zeros(5)
    loss, _ = bradley_terry(chosen, rejected, nothing, margins, nominal=5, center=2.0)
    assert loss.item() == pytest.approx(2 * float(((chosen + rejected) ** 2).mean()), rel=1e-6)


def test_a_tie_is_half_correct_and_a_wide_gap_is_finite():
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0, -1e4]), torch.tensor([1.0, 1.0, 0.0, 1e4])
    loss, sums = bradley_terry(chosen, rejected, torch.ones(4), torch.zeros(4), nominal=4)
    assert sums["correct"] == 1.5
    by_hand = math.log(2) + math.log1p(math.e) + math.log1p(math.exp(-2)) + 2e4
    assert loss.item() * 4 == pytest.approx(by_hand, rel=1e-6)


def test_bfloat16_rewards_are_compared_in_float32():
    chosen, rejected = torch.tensor([1.0078125], dtype=torch.bfloat16), torch.tensor([-256.0], dtype=torch.bfloat16)
    _, sums = bradley_terry(chosen, rejected, torch.ones(1), torch.zeros(1), nominal=1)
    assert sums["margin"] == 257.0078125
