"""Low-rank adapters: what trains, that nothing changes before it does, and that what is saved is the plain class."""

import pytest
import torch
from making_training import plain_model, random_tokens, reward_model, tiny_chat_model, tiny_gpt2

from kat.errors import MissingExtraError
from kat.training.reward import choose_trainable
from kat.training.train import fit, score_tokens
from kat.training_config import RewardOptions

pytest.importorskip("peft")


@pytest.mark.parametrize("make", [tiny_chat_model, tiny_gpt2], ids=["llama", "gpt2"])
def test_adapters_train_and_are_merged(make, tmp_path):
    model = reward_model(make(tmp_path / "tiny"))
    assert model.unshared is None
    data = random_tokens(0, [3, 2, 4, 3])
    before, names = score_tokens(model, data), set(model.model.state_dict())
    trained = choose_trainable(model, "lora", 4)
    assert {n for n in trained if "lora_" not in n} == {"score.weight"}
    assert all("layers." in n or ".h." in n for n in trained if "lora_" in n)
    assert any("lora_" in n for n in trained)
    same = score_tokens(model, data)  # an adapter begins as nothing
    assert torch.allclose(torch.tensor(same.chosen), torch.tensor(before.chosen), atol=1e-6)

    frozen = {n: p.clone() for n, p in model.model.named_parameters() if not p.requires_grad}
    options = RewardOptions(train="lora", lora_rank=4, epochs=15, batch_size=6, backbone_lr=0.01, learning_rate=0.01)
    facts = fit(model, data, [1.0] * len(data), options)
    assert facts["trained_parameters"] == sum(dict(model.model.named_parameters())[n].numel() for n in trained)
    for name, parameter in model.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    after = score_tokens(model, data)
    assert after.accuracy > before.accuracy

    saved = plain_model(model, tmp_path / "saved")
    assert set(saved.state_dict()) == names == set(model.model.state_dict())
    merged = score_tokens(model, data)
    assert torch.allclose(torch.tensor(merged.chosen), torch.tensor(after.chosen), atol=1e-4)
    again = reward_model(str(tmp_path / "saved"))
    assert torch.allclose(torch.tensor(score_tokens(again, data).chosen), torch.tensor(merged.chosen), atol=1e-5)


def test_without_peft_the_message_says_what_to_type(tmp_path, monkeypatch):
    import sys

    model = reward_model(tiny_chat_model(tmp_path / "tiny"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        choose_trainable(model, "lora")
