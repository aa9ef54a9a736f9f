"""Kept activations: the same training as without them, computed once, and refused where blocks cannot run alone."""

import numpy as np
import pytest
import torch
import transformers
from making_training import letters_tokenizer, random_tokens, reward_model, tiny_chat_model

from kat.errors import ModelError, OptionError
from kat.training import activations
from kat.training.activations import Activations, above, below
from kat.training.rewarders import branch_rows, branches_of
from kat.training.train import fit, score_tokens
from kat.training_config import RewardOptions


@pytest.fixture
def tiny(tmp_path):
    return tiny_chat_model(tmp_path / "tiny", blocks=3)


def trained(folder, data, weights, **more):
    options = {"train": "last:1", "batch_size": 5, "epochs": 3, "backbone_lr": 1e-2, "learning_rate": 1e-2}
    model = reward_model(folder)
    fit(model, data, weights, RewardOptions(**options | {"row_tokens": 60} | more))
    return model, {n: p.detach().clone() for n, p in model.model.named_parameters()}


def test_blocks_in_two_parts_are_the_whole(tiny):
    model, data = reward_model(tiny), random_tokens(1, [3, 2, 4])
    for row in branch_rows(data.prompts, branches_of(data), 50):
        with torch.no_grad():
            whole = model.hidden(row.row)
            for blocks in (1, 2, 3):
                parts = above(model, row.row, below(model, row.row, blocks), blocks)
                torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert len(model.base.layers) == 3  # as before


def test_training_is_the_same_with_and_without(tiny, tmp_path, monkeypatch):
    data = random_tokens(2, [3, 1, 4, 2])
    weights = np.linspace(0.5, 1.5, len(data))
    _, plain = trained(tiny, data, weights)
    model, kept = trained(tiny, data, weights, activation_cache=tmp_path / "cache")
    for name, parameter in plain.items():
        torch.testing.assert_close(kept[name], parameter, rtol=1e-4, atol=1e-5)
    # Another seed and other weights find everything there.
    monkeypatch.setattr(activations, "below", lambda *_, **__: pytest.fail("computed again"))
    monkeypatch.setattr(activations, "check_blocks", lambda *_: None)
    again, _ = trained(tiny, data, weights[::-1].copy(), activation_cache=tmp_path / "cache", seed=4)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert score_tokens(again, data).accuracy > 0
    assert score_tokens(model, data).accuracy > 0


def test_bfloat16_rounds_what_is_kept_and_no_more(tiny, tmp_path):
    data = random_tokens(3, [3, 2])
    model = reward_model(tiny)
    exact = Activations(tmp_path / "a", model, data, 1, 40)
    model.autocast = True
    half = Activations(tmp_path / "b", model, data, 1, 40)
    assert exact.folder.name != half.folder.name
    [row] = branch_rows(data.prompts, branches_of(data), 10_000)
    computed = below(model, row.row, 1)
    assert torch.equal(half.of(row.row, row.branches, row.ends).bfloat16(), computed.bfloat16())
    model.autocast = False
    torch.testing.assert_close(
        exact.of(row.row, row.branches, row.ends), below(model, row.row, 1), rtol=1e-5, atol=1e-6
    )


def test_what_was_stopped_is_finished_and_what_is_damaged_is_made_again(tiny, tmp_path, monkeypatch):
    data = random_tokens(4, [2, 3, 2, 3])
    model = reward_model(tiny)
    real, calls = below, []

    def counted(*given, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(activations, "below", counted)
    monkeypatch.setattr(activations, "check_blocks", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        Activations(tmp_path / "c", model, data, 1, 30)
    total = len(list(branch_rows(data.prompts, branches_of(data), 30)))
    kept = Activations(tmp_path / "c", model, data, 1, 30)
    assert len(calls) == total + 1
    path = kept.folder / "hidden.npy"
    array = np.load(path, mmap_mode="r+")
    good = array.copy()
    array[0] += 1
    array.flush()
    (kept.folder / "complete").unlink()
    again = Activations(tmp_path / "c", model, data, 1, 30)
    assert np.array_equal(np.load(path), good)
    assert len(calls) == total + 2
    assert again.folder == kept.folder


def test_places_hold_each_token_of_a_prompt_once(tiny):
    data = random_tokens(5, [3, 2, 4])
    for needed in (branches_of(data), branches_of(data, np.asarray([0, 5])), branches_of(data, np.asarray([8]))):
        places = activations._places(data, needed)
        every = np.concatenate([places.of(b) for b in needed.tolist()])
        assert set(every.tolist()) == set(range(places.size))
        owners = places.owner[needed]
        trunks = sum(len(data.prompts[n].trunk) for n in set(owners.tolist()))
        assert places.size == trunks + places.branch_lengths[needed].sum()


def test_other_models_and_options_are_refused(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=512)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt2")  # adds positions to whatever it is given
    letters_tokenizer().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelError, match="cannot be kept of GPT2Model"):
        Activations(tmp_path / "d", reward_model(str(tmp_path / "gpt2")), random_tokens(0, [2]), 1, 40)
    with pytest.raises(OptionError, match="activation_cache is for train last:N"):
        RewardOptions(train="all", activation_cache=tmp_path)
