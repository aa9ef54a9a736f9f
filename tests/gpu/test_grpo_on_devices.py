"""A policy on a device: what it draws, what it says of that afterwards, and steps that go on after a stop."""

import numpy as np
import pytest
import torch
from making_training import tiny_chat_model

from kat.grpo_config import GrpoOptions
from kat.models.load import load_model
from kat.packing.trunks import Prompt, plant
from kat.training.generation import PolicyGenerator, Sampling
from kat.training.policy import Policy
from kat.training.prompt_sampler import Asked
from kat.training.train_grpo import train_policy

CLOSE = {"float32": 1e-3, "bfloat16": 0.3}
"""Largest difference of a token's log-probability between drawing it and reading it again."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("policy"), causal=True)


def policy_on(device: str, model: str, precision: str) -> Policy:
    loaded = load_model(model, kind="causal", device=device, dtype="float32")
    policy = Policy(loaded, autocast=precision == "bfloat16")
    assert policy.unshared is None
    return policy


@pytest.mark.parametrize("precision", CLOSE)
def test_log_probabilities_of_drawn_tokens_are_those_read_again(precision, model, device):
    policy = policy_on(device, model, precision)
    draw = np.random.default_rng(3)
    prompts = [draw.integers(3, 300, n) for n in (11, 1, 17, 4, 150)]
    sampling = Sampling(most=20, ends=frozenset({7, 20}), temperature=0.8)
    drawn = PolicyGenerator(policy, rows=8).generate(prompts, 3, sampling, [(5, i) for i in range(len(prompts))])
    row = plant([Prompt(p, [c.tokens for c in group]) for p, group in zip(prompts, drawn, strict=True)])
    with torch.no_grad():
        read = policy.predict(row, 0.8)
    told = np.concatenate([c.log_probs for group in drawn for c in group])
    assert len({tuple(c.tokens) for group in drawn for c in group}) > 10
    np.testing.assert_allclose(read.log_probs.cpu().numpy(), told, atol=CLOSE[precision])
    assert bool((read.entropy > 0).all())


def test_float32_draws_what_the_processor_draws(model, device):
    prompts = [np.arange(3, 20), np.arange(40, 44)]
    sampling = Sampling(most=12, ends=frozenset({7}), temperature=0.0)
    drawn, expected = (
        PolicyGenerator(policy_on(d, model, "float32")).generate(prompts, 1, sampling, [(1, 0), (1, 1)])
        for d in (device, "cpu")
    )
    for [one], [other] in zip(drawn, expected, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()


@pytest.mark.parametrize("precision", CLOSE)
def test_two_steps(precision, model, device):
    asked = [Asked([{"role": "user", "content": f"say {i}" + "!" * i}], f"o{i}", f"c{i}", i % 2) for i in range(4)]
    told = {"max_steps": 2, "batch_size": 2, "num_generations": 4, "max_new_tokens": 8, "max_len": 64, "beta": 0.1}
    got = train_policy(
        asked,
        lambda prefixes, completions: [len(set(text)) for text in completions],
        policy=model,
        device=device,
        fixed=asked[:2],
        precision=precision,
        learning_rate=1e-3,
        min_prompt=8,
        updates_per_rollout=2,
        **told,
    )
    assert got.policy.device.type == device
    assert [one["step"] for one in got.log] == [1, 2]
    for one in got.log:
        assert np.isfinite([one["loss"], one["gradient_norm"], one["kl"], one["entropy"]]).all()
        assert one["gradient_norm"] > 0
        assert one["generator_gap"] < CLOSE[precision]
    before = load_model(model, kind="causal", device="cpu", dtype="float32").model
    moved = [
        float((p.detach().cpu() - q.detach()).abs().max())
        for p, q in zip(got.policy.model.parameters(), before.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 5 * GrpoOptions(learning_rate=1e-3).learning_rate
