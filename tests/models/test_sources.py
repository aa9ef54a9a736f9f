"""Names to models: what is found, and what is said when it is not."""

import json
import shutil

import numpy as np
import pytest

import kat
from kat.errors import ModelError
from kat.models.sources import resolve


@pytest.fixture
def local(tmp_path):
    """A copy of the bundled model as any local directory."""
    return shutil.copytree(resolve("minilm").path, tmp_path / "mine")


def tiny(folder, kind: str):
    """A tiny random model of another architecture, with MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaModel, RobertaConfig, RobertaModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("minilm").path, local_files_only=True)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "pad_token_id": 0}
    if kind == "llama":
        model = LlamaModel(LlamaConfig(**sizes, max_position_embeddings=128))
    elif kind == "roberta":
        model = RobertaModel(RobertaConfig(**sizes, max_position_embeddings=130))
    else:
        model = BertModel(BertConfig(**sizes, max_position_embeddings=128))
    model.save_pretrained(folder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_local_models_embed_alike_alone_and_padded(tmp_path, kind):
    folder = str(tiny(tmp_path / kind, kind))
    texts = ["a", "three words here", "a much longer text " * 20, "end " * 300]
    together = kat.encode(texts, model=folder, precision="float32")
    alone = [kat.encode([t], model=folder, precision="float32").vectors[0] for t in texts]
    np.testing.assert_allclose(together.vectors, np.stack(alone), atol=1e-5)
    assert together.meta["max_tokens"] == (129 if kind == "roberta" else 128)
    assert together.lost[3] > 0


def test_a_sentence_transformers_directory_is_read_as_such(local):
    (local / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (local / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    meta = kat.encode(["a"], model=str(local)).meta
    assert (meta["pooling"], meta["max_tokens"]) == ("cls", 64)


def test_an_unknown_module_is_an_error(local):
    modules = json.loads((local / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (local / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="Dense"):
        kat.encode(["a"], model=str(local))


def test_damaged_bundled_weights_are_noticed(local, monkeypatch):
    from kat.models.sources import minilm

    weights = local / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    monkeypatch.setattr(minilm, "bundled_minilm", lambda: local)
    from kat.models.digests import weights_digest

    with pytest.raises(ModelError, match="not the file expected"):
        weights_digest(resolve("minilm"))


def test_truncated_weights_are_an_error_of_one_line(local):
    weights = local / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        kat.encode(["a"], model=str(local))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["base", "mid", "sft", "rl", "rm", "rm_density", "grpo", "grpo_density"])
def test_nanochat_names_say_what_was_looked_for(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KAT_BASE_DIR", str(tmp_path))
    with pytest.raises(ModelError, match=r"does not exist.*--ckpt_source minilm"):
        resolve(name)
    folders = {"base": "base_checkpoints", "sft": "chatsft_checkpoints", "grpo_density": "grpo_checkpoints/density"}
    if name in folders:
        folder = tmp_path / folders[name] / "d12"
        folder.mkdir(parents=True)
        (folder / "model_000100.pt").touch()
        with pytest.raises(ModelError, match=r"d12/meta_000100\.json is not there.*model_000100\.pt"):
            resolve(name)


def test_near_names_are_offered(tmp_path):
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelError, match="Did you mean minilm"):
        resolve("minilmm")
    with pytest.raises(ModelError, match="my-model"):
        resolve(str(tmp_path / "my-modle"))


def test_a_hub_name_never_reaches_the_network_unasked():
    # Sockets are blocked in this suite: reaching out would raise something else.
    with pytest.raises(ModelError, match="--allow_network"):
        resolve("some-org/some-model")


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"config\.json was looked for, it holds notes\.txt"):
        resolve(str(tmp_path))
