"""DPO over shared trunks against one pair after the other in the model's class: losses, gradients, the reference."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from making_policies import plain_of, policy_of

from kat.packing.trunks import Prompt
from kat.training.implicit import ImplicitRewards, Reference, SequenceLogProbs
from kat.training.loop import Trainer
from kat.training.losses import PREFERENCES, PreferenceLoss
from kat.training.scoring import rewards_of
from kat.training.tokens import TokenPairs
from kat.training.train_dpo import reference_of
from kat.training_config import DpoOptions, RewardOptions

FAMILIES = ("Llama", "GPT2", "nanochat 2025-10", "nanochat 2026-03")


pytestmark = pytest.mark.usefixtures("one_thread")


def some_pairs(seed=0):
    """Prompts of 1 to 4 completions and several pairs over them, in an order of their own; one begins another."""
    draw = np.random.default_rng(seed)
    trunk = draw.integers(2, 60, 9)
    trunks = [trunk, np.concatenate([trunk, draw.integers(2, 60, 3)]), draw.integers(2, 60, 5)]
    prompts = [
        Prompt(t, [draw.integers(2, 60, draw.integers(1, 8)) for _ in range(n)])
        for t, n in zip(trunks, (2, 3, 4), strict=True)
    ]
    rows = [(0, 0, 1), (1, 0, 1), (1, 2, 1), (2, 0, 1), (2, 1, 2), (2, 3, 0), (2, 3, 1)]
    prompt, chosen, rejected = np.asarray(rows)[draw.permutation(len(rows))].T
    margins = draw.normal(size=len(rows)).astype(np.float32) * 0.1
    return TokenPairs(prompts, prompt, chosen, rejected, [f"p{i}" for i in range(len(rows))], margins)


def plain_log_probs(model, data, *, per_token):
    """Log-probabilities [2, P] of chosen and rejected completions, a sequence at a time; of those without a trunk,
    from the second token on."""
    sums = []
    for side in (data.chosen, data.rejected):
        for number, branch in zip(data.prompt, side, strict=True):
            trunk, tokens = data.prompts[number].trunk, data.prompts[number].branches[branch]
            ids = torch.from_numpy(np.concatenate([trunk, tokens]).astype(np.int64))[None]
            log_probs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            first = max(len(trunk), 1)
            own = log_probs[torch.arange(first - 1, ids.shape[1] - 1), ids[0, first:]]
            sums.append(own.mean() if per_token else own.sum())
    return torch.stack(sums).view(2, -1)


def plain_loss(kind, model, reference, data, v, *, beta, smoothing, per_token):
    with torch.no_grad():
        before = plain_log_probs(reference, data, per_token=per_token)
    ratios = plain_log_probs(model, data, per_token=per_token) - before
    total = 0.0
    for i in range(len(data)):
        h = ratios[0, i] - ratios[1, i]
        z = beta * h - float(data.margins[i])
        if kind == "sigmoid":
            loss = -(1 - smoothing) * torch.log(torch.sigmoid(z)) - smoothing * torch.log(torch.sigmoid(-z))
        elif kind == "ipo":
            loss = (z / beta - 1 / (2 * beta)) ** 2
        else:
            loss = torch.clamp(1 - z, min=0)
        total = total + float(v[i]) * loss
    return total / len(data)


def moved(policy, by=0.02):
    """Let the policy stray from what it was; return what it was."""
    before = plain_of(policy)
    with torch.no_grad():
        for number, parameter in enumerate(policy.model.parameters()):
            draw = torch.Generator().manual_seed(number)
            parameter.add_(by * torch.randn(parameter.shape, generator=draw))
    return before


def trainer_of(policy, data, reference, v, *, kind="sigmoid", beta=0.3, smoothing=0.0, per_token=False, budget=40):
    rewarder = ImplicitRewards(SequenceLogProbs(policy, per_token=per_token), data, reference, beta, budget)
    groups = [{"params": [p for p in policy.model.parameters() if p.requires_grad], "lr": 1e-3}]
    options = replace(RewardOptions(), batch_size=len(data), warmup=0.0, schedule="constant", grad_clip=0.0)
    return Trainer(rewarder, groups, data, v, options, loss=PreferenceLoss(kind, beta, smoothing))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "smoothing", "per_token"),
    [("sigmoid", 0.0, False), ("sigmoid", 0.2, True), ("ipo", 0.0, True), ("hinge", 0.0, False)],
)
def test_a_step_is_that_of_one_pair_after_the_other(family, kind, smoothing, per_token, tmp_path, base_dir):
    policy, data = policy_of(family, tmp_path, base_dir), some_pairs()
    v = np.random.default_rng(1).uniform(0.2, 3, len(data)).astype(np.float32)
    reference = Reference(*rewards_of(SequenceLogProbs(policy, per_token=per_token), data, 40))
    first = moved(policy)
    plain = plain_of(policy)
    how = {"beta": 0.3, "smoothing": smoothing, "per_token": per_token}
    loss = plain_loss(kind, plain, first, data, v, **how)
    loss.backward()
    trainer = trainer_of(policy, data, reference, v, kind=kind, **how)
    trainer.optimizer.step = lambda: None  # gradients stay to be looked at
    numbers = trainer.step(np.arange(len(data)), len(data))
    assert numbers["weighted_loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-5)
    for (name, ours), theirs in zip(policy.model.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None or not ours.grad.any(), name
            continue
        size = float(theirs.grad.abs().max())
        assert float((ours.grad - theirs.grad).abs().max()) <= 1e-4 * size + 1e-6, name


def test_the_kept_reference_is_the_live_one(tmp_path, base_dir):
    policy, data = policy_of("Llama", tmp_path, base_dir), some_pairs()
    kept = Reference(*rewards_of(SequenceLogProbs(policy), data, 60))
    with torch.no_grad():
        live = plain_log_probs(plain_of(policy), data, per_token=False)
    torch.testing.assert_close(torch.from_numpy(np.stack(kept)), live, rtol=1e-5, atol=1e-4)
    trainer = trainer_of(policy, data, kept, np.ones(len(data), np.float32), budget=1000)
    trainer.data = data = replace(data, margins=np.zeros(len(data), np.float32))
    numbers = trainer.step(np.arange(len(data)), len(data))
    assert numbers["loss"] == pytest.approx(np.log(2), abs=1e-5)  # the policy is its reference still
    assert numbers["margin"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("budget", [12, 1000])
def test_what_begins_a_sequence_is_predicted_by_nothing(budget, per_token, tmp_path, base_dir):
    """A template that writes a context otherwise can leave a prompt no trunk."""
    policy, data = policy_of("Llama", tmp_path, base_dir), some_pairs()
    bare = [
        Prompt(prompt.trunk[:0], [np.append(prompt.trunk[:3], b) for b in prompt.branches]) for prompt in data.prompts
    ]
    data = replace(data, prompts=[bare[0], data.prompts[1], bare[2]])
    kept = rewards_of(SequenceLogProbs(policy, per_token=per_token), data, budget)
    with torch.no_grad():
        plain = plain_log_probs(plain_of(policy), data, per_token=per_token)
    torch.testing.assert_close(torch.from_numpy(np.stack(kept)), plain, rtol=1e-5, atol=1e-4)


def test_a_single_token_that_nothing_precedes_has_no_mean(tmp_path, base_dir):
    policy, data = policy_of("Llama", tmp_path, base_dir), some_pairs()
    first, *others = data.prompts
    data = replace(data, prompts=[Prompt(first.trunk[:0], [branch[:1] for branch in first.branches]), *others])
    for kept in rewards_of(SequenceLogProbs(policy, per_token=True), data, 1000):
        assert (kept[data.prompt == 0] == 0).all()
        assert (kept[data.prompt > 0] < 0).all()


def test_rows_share_the_weights_of_a_reference_that_are_now(tmp_path, base_dir):
    """In bfloat16 they are cast once for all rows, and again for the next reference."""
    policy, data = policy_of("Llama", tmp_path, base_dir, autocast=True), some_pairs()
    options, seen = DpoOptions(row_tokens=20), []
    for _ in range(2):
        shared = reference_of(policy, data, options)
        plain = rewards_of(SequenceLogProbs(policy), data, options.row_tokens)
        np.testing.assert_array_equal(np.stack(shared), np.stack(plain))
        seen.append(np.stack(shared))
        moved(policy)
    assert np.abs(seen[0] - seen[1]).max() > 0.01


@pytest.mark.parametrize("kind", ["sigmoid", "hinge"])
def test_a_small_beta_is_a_plain_push_of_the_difference(kind, tmp_path, base_dir):
    """β → 0: the gradient goes to −β/2 (sigmoid) or −β (hinge) times that of Σ v · (log-ratios' difference) / B."""
    policy, data = policy_of("Llama", tmp_path, base_dir), replace(some_pairs(), margins=np.zeros(7, np.float32))
    v = np.random.default_rng(1).uniform(0.2, 3, len(data)).astype(np.float32)
    reference = Reference(*rewards_of(SequenceLogProbs(policy), data, 40))
    moved(policy)
    plain, beta = plain_of(policy), 1e-6
    chosen, rejected = plain_log_probs(plain, data, per_token=False)
    (-beta * {"sigmoid": 0.5, "hinge": 1}[kind] * (torch.from_numpy(v) * (chosen - rejected)).sum() / 7).backward()
    trainer = trainer_of(policy, data, reference, v, kind=kind, beta=beta)
    trainer.optimizer.step = lambda: None
    trainer.step(np.arange(7), 7)
    for ours, theirs in zip(policy.model.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert float((ours.grad - theirs.grad).abs().max()) <= 1e-3 * float(theirs.grad.abs().max()) + 1e-12


def test_weights_scale_losses_and_nothing_else(tmp_path, base_dir):
    policy, data = policy_of("GPT2", tmp_path, base_dir), some_pairs()
    reference = Reference(*rewards_of(SequenceLogProbs(policy), data, 40))
    moved(policy)
    gradients = []
    for v in (
        np.ones(7, np.float32),
        np.full(7, 3, np.float32),
        np.zeros(7, np.float32) + np.eye(7, dtype=np.float32)[2],
    ):
        trainer = trainer_of(policy, data, reference, v)
        trainer.optimizer.step = lambda: None
        numbers = trainer.step(np.arange(7), 7)
        gradients.append([p.grad.clone() for p in policy.model.parameters() if p.grad is not None])
    for one, three in zip(gradients[0], gradients[1], strict=True):
        torch.testing.assert_close(3 * one, three, rtol=1e-5, atol=1e-6)
    alone = trainer_of(policy, data.select(np.asarray([2])), Reference(*(side[2:3] for side in reference)), np.ones(1))
    alone.optimizer.step = lambda: None
    assert alone.step(np.arange(1), 7)["weighted_loss"] == pytest.approx(7 * numbers["weighted_loss"], rel=1e-5)
    for one, other in zip(gradients[2], [p.grad for p in policy.model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_every_row_of_the_table_prefers_the_chosen():
    h = torch.linspace(-3, 0.4, 30, requires_grad=True)
    for kind in PREFERENCES:
        loss, sums = PreferenceLoss(kind, 1.0)(h, torch.zeros(30), torch.ones(30), torch.zeros(30), 30)
        (slope,) = torch.autograd.grad(loss, h)
        assert (slope < 0).all(), kind
        assert sums["weighted_loss"] == pytest.approx(30 * float(loss), rel=1e-6)
    assert copy.copy(PreferenceLoss("ipo", 0.5)) == PreferenceLoss("ipo", 0.5)
