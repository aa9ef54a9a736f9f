"""One loader for three kinds of model: what it gives, what it says, and what it refuses to make up."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from making import tiny, turn
from safetensors.torch import load_file, save_file

import kat
from kat.errors import ModelError, OptionError
from kat.models.digests import settings_digest
from kat.models.load import load_model
from kat.models.sources import resolve


@pytest.fixture
def llama(tmp_path):
    """A causal model on disk, whole."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tiny(tmp_path / "llama", "Llama", pad_token_id=1)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


IDS = torch.tensor([[5, 9, 17, 3]])


def test_a_causal_model_gives_what_transformers_gives(llama):
    from transformers import AutoModelForCausalLM

    found = load_model(llama, kind="causal", device="cpu")
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(llama).eval()(IDS).logits
        assert torch.equal(found.model(IDS).logits, wanted)
    assert not found.model.training
    meta = found.meta
    assert (meta["kind"], meta["head"], meta["format"], meta["dimension"]) == ("causal", "loaded", "safetensors", 32)
    assert meta["parameters"] == sum(p.numel() for p in found.model.parameters())
    assert len(meta["sha256"]) == 64
    assert meta["path"] == llama
    ids = found.chat.render([turn("user", "w5 w9")])
    assert all(isinstance(i, int) for i in ids)


def test_an_encoder_is_the_backbone_of_the_same_files(llama):
    causal, encoder = (load_model(llama, kind=kind, device="cpu") for kind in ("causal", "encoder"))
    with torch.no_grad():
        hidden = encoder.model(IDS).last_hidden_state
        np.testing.assert_array_equal(causal.model.lm_head(hidden).numpy(), causal.model(IDS).logits.numpy())


def test_a_new_reward_head_is_drawn_alike_and_said(llama, tmp_path):
    one, other = (load_model(llama, kind="reward", device="cpu") for _ in range(2))
    assert one.meta["head"] == "new"
    assert torch.equal(one.model.score.weight, other.model.score.weight)
    assert one.model.score.weight.std().item() == pytest.approx(33**-0.5, rel=0.4)
    with torch.no_grad():
        assert one.model(IDS).logits.shape == (1, 1)
    one.model.save_pretrained(tmp_path / "rm")
    one.tokenizer.save_pretrained(tmp_path / "rm")
    again = load_model(str(tmp_path / "rm"), kind="reward", device="cpu")
    assert again.meta["head"] == "loaded"
    assert torch.equal(again.model.score.weight, one.model.score.weight)


@pytest.mark.parametrize("kind", ["causal", "reward", "encoder"])
def test_weights_that_are_missing_are_not_made_up(llama, kind):
    path = f"{llama}/model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the .*weights.*up_proj"):
        load_model(llama, kind=kind, device="cpu")


def test_number_formats(llama):
    assert load_model(llama, kind="causal", device="cpu").model.dtype == torch.float32
    assert load_model(llama, kind="causal", device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(OptionError, match="dtype is 'int8'"):
        load_model(llama, kind="causal", dtype="int8")
    with pytest.raises(OptionError, match="kind is 'policy'"):
        load_model(llama, kind="policy")


def test_no_file_turns_remote_code_on(llama, tmp_path):
    marker = tmp_path / "ran"
    folder = Path(llama)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    config["trust_remote_code"] = True
    (folder / "config.json").write_text(json.dumps(config))
    for kind in ("causal", "encoder"):
        load_model(llama, kind=kind, device="cpu")
    assert not marker.exists()


def test_a_pickle_runs_nothing(llama, tmp_path):
    import os
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    os.remove(f"{llama}/model.safetensors")
    with open(f"{llama}/pytorch_model.bin", "wb") as file:
        pickle.dump({"model.embed_tokens.weight": Evil()}, file)
    for kind in ("causal", "encoder", "reward"):
        with pytest.raises(ModelError, match="a pickle of more than tensors, which is never run"):
            load_model(llama, kind=kind, device="cpu")
    assert not marker.exists()


def test_it_is_a_public_name():
    assert kat.load_model is load_model


def test_an_old_transformers_is_named(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers, "__version__", "5.6.2")
    with pytest.raises(ModelError, match=r"transformers 5\.6\.2 is installed; kat needs 5\.7 or newer"):
        kat.load_model("minilm")


def test_the_declared_bound_is_the_one_that_is_checked():
    import tomllib

    from kat.models.load import OLDEST_TRANSFORMERS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"transformers>={'.'.join(map(str, OLDEST_TRANSFORMERS))}" in project["dependencies"]


def test_whatever_is_read_beside_the_weights_is_in_their_settings_digest(llama):
    folder, source = Path(llama), resolve(llama)

    def changes(name):
        before = settings_digest(source)
        (folder / name).write_text(name)
        return settings_digest(source) != before

    template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    before, words = settings_digest(source), load_model(llama, kind="causal").chat.render([turn("user", "w5")])
    (folder / "chat_template.jinja").write_text(template)  # where transformers writes it
    assert load_model(llama, kind="causal").chat.render([turn("user", "w5")]) != words
    assert settings_digest(source) != before
    assert [changes(name) for name in ("README.md", "vocab.txt", "tokenizer.model")] == [False, False, False]
    (folder / "tokenizer.json").unlink()
    assert [changes(name) for name in ("LICENSE", "merges.txt", "spiece.model")] == [False, True, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 2**70}, "num_hidden_layers is 4,611,686,018,427,387,904"),
        ({"num_hidden_layers": 1e6}, "num_hidden_layers is 1,000,000"),
        ({"n_layers": 100_000}, "n_layers is 100,000"),
        ({"num_labels": 10**12}, "num_labels is 1,000,000,000,000"),
        ({"text_config": {"decoder_layers": 9_999}}, "decoder_layers is 9,999"),
    ],
)
@pytest.mark.parametrize("stored", ["safetensors", "bin"])
def test_a_config_that_asks_for_more_layers_than_there_are_weights(tmp_path, change, said, stored):
    """transformers would build them all, for hours, before it looks at the weights."""
    tiny(folder := tmp_path / "m", "Bert")
    if stored == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=rf"config.json: {said}, but the files beside it hold \d+ tensors"):
        load_model(str(folder), device="cpu")


def test_layers_that_share_their_weights_may_be_many(tmp_path):
    tiny(folder := tmp_path / "m", "Bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_groups": 512, "num_labels": 500}))
    assert load_model(str(folder), device="cpu").dimension
