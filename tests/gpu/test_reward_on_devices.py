"""A reward model that trains on a device, against one on the processor: losses, gradients, parameters, and stops."""

import io

import numpy as np
import pytest
import torch
from making_training import random_tokens, tiny_chat_model

from kat.training.train import fit, load_reward_model
from kat.training_config import RewardOptions

SIZES = [3, 1, 5, 2, 4, 1, 2, 6]
RATE = 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("reward"))


def options(model: str, **more) -> RewardOptions:
    told = {"train": "all", "batch_size": 8, "learning_rate": RATE, "backbone_lr": RATE, "precision": "float32"}
    return RewardOptions(model=model, max_steps=3, warmup=0.0, **told | more)


class Kept:
    """A checkpoint in memory, in the bytes that would be on disk."""

    def __init__(self, state: bytes | None = None):
        self.state = state

    def load(self, device):
        return self.state and torch.load(io.BytesIO(self.state), map_location=device, weights_only=True)

    def save(self, state):
        file = io.BytesIO()
        torch.save(dict(state), file)
        self.state = self.state or file.getvalue()  # the first one: the last is kept when training is over


def trained(chosen: RewardOptions, device: str, kept: Kept | None = None) -> tuple[list[dict], torch.Tensor]:
    """The numbers of the steps that were taken, and all parameters in the end, on the processor."""
    data, log = random_tokens(0, SIZES, margins=True), []
    weights = np.random.default_rng(0).uniform(0.2, 2, len(data))
    loaded = load_reward_model(chosen, device)
    assert loaded.unshared is None
    fit(loaded, data, weights / weights.mean(), chosen, on_step=log.append, checkpoint=kept)
    return log, torch.cat([p.detach().cpu().flatten() for p in loaded.model.parameters()])


def assert_alike(parameters: torch.Tensor, others: torch.Tensor) -> None:
    """Nearly all are the same. Adam steps by a gradient's sign, and that of one that is rounding alone is chance."""
    apart = (parameters - others).abs()
    assert apart.quantile(0.99) < 0.02 * RATE
    assert apart.max() < 2 * 3 * RATE


def test_steps_are_those_of_the_processor(model, device):
    log, parameters = trained(options(model), device)
    expected, others = trained(options(model), "cpu")
    for step, other in zip(log, expected, strict=True):
        for name in ("loss", "weighted_loss", "margin", "gradient_norm"):
            assert step[name] == pytest.approx(other[name], abs=1e-4, rel=1e-4), name
    assert_alike(parameters, others)


def test_bfloat16_learns_the_same(model, device):
    log, _ = trained(options(model, precision="bfloat16"), device)
    expected, _ = trained(options(model), "cpu")
    assert [step["loss"] for step in log] == pytest.approx([step["loss"] for step in expected], abs=0.05)


@pytest.mark.parametrize("other", ["same", "cpu"])
def test_training_goes_on_after_a_stop_here_and_elsewhere(model, device, other):
    """A state that one device wrote after two steps, read by the other, either way round."""
    other = device if other == "same" else other
    chosen = options(model, save_every=2)
    for writes, reads in ((device, other), (other, device)):
        kept = Kept()
        _, expected = trained(chosen, writes, kept)
        log, parameters = trained(chosen, reads, Kept(kept.state))
        assert [step["step"] for step in log] == [3]
        assert_alike(parameters, expected)


def test_gradients_through_shared_trunks_are_those_of_separate_sequences(model, device):
    reward = load_reward_model(options(model), device)
    from kat.packing.trunks import plant

    row = plant(random_tokens(1, SIZES).prompts)
    ends = np.concatenate(row.ends)
    towards = torch.randn(len(ends), generator=torch.Generator().manual_seed(0)).to(device)
    gradients = []
    for shared in (True, False):
        reward.model.zero_grad()
        sequences = [row.tokens[row.layout.sequence(int(end))] for end in ends]
        rewards = reward.rewards(row, ends) if shared else reward.separate_rewards(sequences)
        (rewards * towards).sum().backward()
        gradients.append([p.grad.clone() for p in reward.model.parameters()])
    for one, plain in zip(*gradients, strict=True):
        assert (one - plain).abs().max() <= 1e-4 * plain.abs().max()
