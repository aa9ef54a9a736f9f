"""The losses of GRPO against closed forms: enumeration over a small softmax, and sums that are written out."""

import itertools
import math

import numpy as np
import pytest
import torch

from kat.training.grpo_losses import (
    SMALL,
    Surrogate,
    adapted_beta,
    advantages,
    kl_estimate,
    kl_penalty,
    policy_loss,
    token_weights,
    truncated_importance,
)


def softmax_pair(seed=0, size=5):
    """Logits with gradients, and fixed ones of a reference, in float64."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=draw, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(size, generator=draw, dtype=torch.float64).log_softmax(0)


def expected_gradient(estimate):
    """The gradient of an estimate, averaged over the tokens that the policy draws: by going through all of them."""
    logits, reference = softmax_pair()
    total = torch.zeros_like(logits)
    for token in range(len(logits)):
        now = logits.log_softmax(0)
        probability = float(now[token].detach().exp())
        (gradient,) = torch.autograd.grad(estimate(now[token : token + 1], reference[token : token + 1]).sum(), logits)
        total += probability * gradient
    return total


def true_gradients():
    logits, reference = softmax_pair()
    now = logits.log_softmax(0)
    (forward,) = torch.autograd.grad((now.exp() * (now - reference)).sum(), logits, retain_graph=True)
    (backward,) = torch.autograd.grad((reference.exp() * (reference - now)).sum(), logits)
    return forward, backward


class TestKl:
    @pytest.mark.parametrize("kind", ["k1", "k3"])
    def test_estimates_are_right_on_average(self, kind):
        logits, reference = softmax_pair()
        now = logits.detach().log_softmax(0)
        kl = float((now.exp() * (now - reference)).sum())
        assert float((now.exp() * kl_estimate(now, reference, kind)).sum()) == pytest.approx(kl, rel=1e-12)

    def test_k2_is_nearly_right_where_they_are_close(self):
        logits, _ = softmax_pair()
        now = logits.detach().log_softmax(0)
        reference = (logits.detach() + 0.01 * torch.arange(5)).log_softmax(0)
        kl = float((now.exp() * (now - reference)).sum())
        assert float((now.exp() * kl_estimate(now, reference, "k2")).sum()) == pytest.approx(kl, rel=0.05)

    def test_k3_is_never_negative(self):
        now, reference = torch.randn(2, 1000, generator=torch.Generator().manual_seed(1)).unbind()
        assert (kl_estimate(now, reference, "k3") >= 0).all()
        assert (kl_estimate(now, reference, "k1") < 0).any()

    def test_the_penalty_has_the_gradient_of_the_kl(self):
        forward, _ = true_gradients()
        got = expected_gradient(lambda now, reference: kl_penalty(now, now.detach(), reference))
        torch.testing.assert_close(got, forward, rtol=1e-10, atol=1e-12)

    def test_what_plain_estimates_have_instead(self):
        forward, backward = true_gradients()
        torch.testing.assert_close(
            expected_gradient(lambda n, r: kl_estimate(n, r, "k2")), forward, rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(
            expected_gradient(lambda n, r: kl_estimate(n, r, "k3")), backward, rtol=1e-10, atol=1e-12
        )
        assert expected_gradient(lambda n, r: kl_estimate(n, r, "k1")).abs().max() < 1e-12
        assert (forward - backward).abs().max() > 0.05

    def test_the_penalty_is_right_of_tokens_that_an_older_policy_drew(self):
        logits, reference = softmax_pair()
        old = (logits.detach() + torch.tensor([0.5, 0, -0.5, 0.2, 0.0])).log_softmax(0)
        now = logits.log_softmax(0)
        value = (old.exp() * kl_penalty(now, old, reference)).sum()
        (got,) = torch.autograd.grad(value, logits)
        torch.testing.assert_close(got, true_gradients()[0], rtol=1e-10, atol=1e-12)
        assert float(value) == pytest.approx(float((now.exp() * (now - reference)).sum()), rel=1e-12)


class TestAdvantages:
    rewards = torch.tensor([[1.0, 3.0, 2.0, 6.0], [10.0, 10.5, 9.5, 10.0]])

    def test_by_hand(self):
        centred = np.array([[-2.0, 0.0, -1.0, 3.0], [0.0, 0.5, -0.5, 0.0]])
        np.testing.assert_allclose(advantages(self.rewards, "none"), centred, atol=1e-6)
        own = np.sqrt((centred**2).sum(1, keepdims=True) / 3)
        np.testing.assert_allclose(advantages(self.rewards, "group"), centred / (own + SMALL), rtol=1e-5, atol=1e-6)
        together = math.sqrt((centred**2).sum() / 6)
        np.testing.assert_allclose(advantages(self.rewards), centred / (together + SMALL), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("scale", ["batch", "group"])
    def test_neither_the_unit_of_a_reward_nor_what_a_prompt_adds_matters(self, scale):
        other = 7 * self.rewards + torch.tensor([[100.0], [-3.0]])
        torch.testing.assert_close(advantages(other, scale), advantages(self.rewards, scale), rtol=1e-3, atol=1e-3)

    def test_the_group_scale_is_that_of_trl(self):
        expected = (self.rewards - self.rewards.mean(1, keepdim=True)) / (self.rewards.std(1, keepdim=True) + 1e-4)
        torch.testing.assert_close(advantages(self.rewards, "group"), expected)

    def test_groups_alike_give_zeros_and_no_nan(self):
        for scale in ("batch", "group", "none"):
            assert not advantages(torch.ones(3, 4), scale).any()


class TestTokenWeights:
    lengths = torch.tensor([2, 6, 4])

    def test_by_hand(self):
        told = {"sequences": 3, "tokens": 12, "longest": 8}
        each = {n: token_weights(self.lengths, n, **told).tolist() for n in ("dapo", "grpo", "dr_grpo")}
        assert each["dapo"] == pytest.approx([1 / 12] * 3)
        assert each["grpo"] == pytest.approx([1 / 6, 1 / 18, 1 / 12])
        assert each["dr_grpo"] == pytest.approx([1 / 24] * 3)

    @pytest.mark.parametrize("kind", ["dapo", "grpo"])
    def test_tokens_of_a_step_weigh_one_together(self, kind):
        weights = token_weights(self.lengths, kind, sequences=3, tokens=12, longest=8)
        assert float((weights * self.lengths).sum()) == pytest.approx(1)


def one_token(ratio, advantage, surrogate):
    """Loss and gradient of one token whose ratio is given, of weight 1."""
    now = torch.tensor([math.log(ratio) - 1.0], dtype=torch.float64, requires_grad=True)
    given = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0])
    told = torch.tensor([advantage], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    loss, sums = policy_loss(now, *given, *told, surrogate)
    loss.backward()
    return float(loss.detach()), float(now.grad), sums


class TestClipping:
    rule = Surrogate(clip_low=0.2, clip_high=0.3)

    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "moves"),
        [
            (1.0, 2.0, -2.0, True),
            (1.5, 2.0, -2.6, False),  # good and likelier already
            (0.5, 2.0, -1.0, True),  # good and less likely: pulled back
            (0.5, -2.0, 1.6, False),  # bad and less likely already
            (1.5, -2.0, 3.0, True),  # bad and likelier: pushed down
        ],
    )
    def test_both_sides(self, ratio, advantage, loss, moves):
        got, gradient, sums = one_token(ratio, advantage, self.rule)
        assert got == pytest.approx(loss)
        assert gradient == pytest.approx(-ratio * advantage if moves else 0.0)
        assert sums["clipped_low"] + sums["clipped_high"] == (not moves)
        assert sums["clipped_high"] == (not moves and advantage > 0)

    @pytest.mark.parametrize(("ratio", "loss", "moves"), [(2.0, 4.0, True), (4.0, 6.0, False)])
    def test_dual_clip_bounds_what_a_bad_token_weighs(self, ratio, loss, moves):
        got, gradient, _ = one_token(ratio, -2.0, Surrogate(dual_clip=3.0))
        assert got == pytest.approx(loss)
        assert (gradient != 0) == moves

    @pytest.mark.parametrize(("ratio", "kept"), [(1.0, 1.0), (2.5, 1.3), (0.1, 0.1)])
    @pytest.mark.parametrize("advantage", [2.0, -2.0])
    def test_cispo_keeps_the_gradient_of_every_token(self, ratio, kept, advantage):
        _, gradient, _ = one_token(ratio, advantage, Surrogate("cispo", clip_high=0.3))
        assert gradient == pytest.approx(-kept * advantage)

    @pytest.mark.parametrize("normalise", ["grpo", "dapo"])
    def test_a_sequence_ratio_is_the_geometric_mean_of_its_tokens(self, normalise):
        draw = torch.Generator().manual_seed(3)
        lengths = torch.tensor([3, 1, 5])
        sequence = torch.repeat_interleave(torch.arange(3), lengths)
        now = torch.randn(9, generator=draw, dtype=torch.float64, requires_grad=True)
        then = now.detach() + 0.3 * torch.randn(9, generator=draw, dtype=torch.float64)
        advantage = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        weights = token_weights(lengths, normalise, sequences=3, tokens=9, longest=5).double()
        loss, _ = policy_loss(now, then, sequence, advantage[sequence], weights[sequence], Surrogate("sequence"))
        (got,) = torch.autograd.grad(loss, now)
        by_hand = torch.zeros((), dtype=torch.float64)
        for s, part in enumerate(torch.split(torch.arange(9), lengths.tolist())):
            ratio = (now[part] - then[part]).mean().exp()
            term = torch.minimum(ratio * advantage[s], ratio.clamp(0.8, 1.2) * advantage[s])
            by_hand = by_hand - term * weights[s] * len(part)
        (expected,) = torch.autograd.grad(by_hand, now)
        torch.testing.assert_close(loss, by_hand)
        torch.testing.assert_close(got, expected)
        assert got.abs().max() > 0


def test_the_gradient_of_a_step_is_the_enumerated_policy_gradient():
    """Two tokens, each of 3 words, the second's distribution after the first: ∇ E[R] by going through all sequences."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(3, generator=draw, dtype=torch.float64, requires_grad=True)
    second = torch.randn(3, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    reward = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    expectation = (first.softmax(0)[:, None] * second.softmax(1) * reward).sum()
    expected = torch.autograd.grad(expectation, [first, second])
    got = [torch.zeros_like(first), torch.zeros_like(second)]
    for a, b in itertools.product(range(3), range(3)):
        now = torch.stack([first.log_softmax(0)[a], second.log_softmax(1)[a, b]])
        probability = float(now.detach().sum().exp())
        advantage = (reward[a, b] - 0.3).expand(2)  # any baseline leaves the expectation as it is
        weight = torch.ones(2, dtype=torch.float64)
        loss, _ = policy_loss(now, now.detach(), torch.zeros(2, dtype=torch.long), advantage, weight)
        for total, part in zip(got, torch.autograd.grad(loss, [first, second]), strict=True):
            total -= probability * part
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_parts_of_a_step_add_up_to_it():
    draw = torch.Generator().manual_seed(1)
    lengths = torch.tensor([2, 3, 1, 4])
    sequence = torch.repeat_interleave(torch.arange(4), lengths)
    now, noise, reference = torch.randn(3, 10, generator=draw).unbind()
    then, advantage = now + 0.1 * noise, torch.randn(4, generator=draw)[sequence]
    weight = token_weights(lengths, "grpo", sequences=4, tokens=10, longest=4)[sequence]
    told = {"beta": 0.3}
    whole, sums = policy_loss(now, then, sequence, advantage, weight, reference=reference, **told)
    parts = [slice(0, 5), slice(5, 10)]
    each = [
        policy_loss(
            now[p], then[p], sequence[p] - sequence[p][0], advantage[p], weight[p], reference=reference[p], **told
        )
        for p in parts
    ]
    assert float(sum(loss for loss, _ in each)) == pytest.approx(float(whole), rel=1e-5)
    for name, value in sums.items():
        assert sum(part[name] for _, part in each) == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_beta_weighs_the_penalty_and_a_correction_all_of_a_token():
    now, then, reference = torch.tensor([[-1.0, -2.0], [-1.1, -1.9], [-1.5, -1.5]]).unbind()
    given = (now, then, torch.tensor([0, 0]), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]))
    bare, _ = policy_loss(*given, reference=reference)
    with_kl, sums = policy_loss(*given, reference=reference, beta=2.0)
    assert float(with_kl - bare) == pytest.approx(float(kl_penalty(now, then, reference).sum()))
    assert sums["policy"] == pytest.approx(float(bare))
    assert sums["kl"] == pytest.approx(float(kl_estimate(now, reference, "k3").sum()))
    halved, _ = policy_loss(*given, reference=reference, beta=2.0, correction=torch.tensor([0.5, 0.5]))
    assert float(halved) == pytest.approx(float(with_kl) / 2)


def test_corrections_of_another_engine_are_cut_at_their_cap():
    then, drawn = torch.log(torch.tensor([[0.2, 0.9, 0.3], [0.4, 0.1, 0.3]])).unbind()
    assert truncated_importance(then, drawn, 2.0).tolist() == pytest.approx([0.5, 2.0, 1.0])


@pytest.mark.parametrize(("kl", "exponent"), [(0.05, 0.0), (0.075, 0.5), (10.0, 1.0), (0.0, -1.0), (0.025, -0.5)])
def test_beta_follows_the_kl(kl, exponent):
    assert adapted_beta(0.02, kl, 0.05, 0.1) == pytest.approx(0.02 * math.exp(0.1 * exponent))
