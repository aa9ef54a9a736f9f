"""What models there are, which one is meant, and how one gets out."""

import json

import pytest
import torch
from making import tiny
from making_nanochat import CONFIG, LATER, later_state, random_state, save

import kat
from kat.config import EmbedOptions
from kat.errors import ModelError
from kat.models.sources import resolve


def test_every_checkpoint_is_listed_with_its_format_version(base_dir, kat_cli):
    save(base_dir, random_state(), step=5)
    save(base_dir, random_state(), step=40)
    save(base_dir, later_state(LATER), LATER, family="base_checkpoints", tag="d6", step=100)
    (base_dir / "rm_checkpoints" / "density" / "d3").mkdir(parents=True)
    (base_dir / "rm_checkpoints" / "density" / "d3" / "model_000001.pt").write_bytes(b"cut")
    ran = kat_cli("models")
    assert ran.rc == 0, ran.stderr
    rows = {line.split()[0]: line for line in ran.stdout.splitlines() if line.strip()}
    assert "384" in rows["minilm"]
    assert "2025-10" in rows["sft/d3/5"]
    assert "48" in rows["sft/d3/40"]
    assert "2026-03" in rows["base/d6/100"]
    assert "model_000100.pt" in rows["base/d6/100"]
    assert "meta_000001.json is not there" in ran.stdout


def test_a_tag_and_a_step_name_one_checkpoint(base_dir, tmp_path, python):
    save(base_dir, random_state(seed=1), step=5)
    save(base_dir, random_state(seed=2), step=40)
    save(base_dir, random_state(CONFIG | {"n_layer": 4}, seed=3), CONFIG | {"n_layer": 4}, tag="d4", step=7)
    assert "d4-7" in str(resolve("sft").path)
    assert "d3-40" in str(resolve("sft/d3").path)
    assert "d3-5" in str(resolve("sft/d3/5").path)
    assert "d4-7" in str(resolve("sft/*/7").path)
    assert EmbedOptions("sft", model_tag="d3", step=5).source == "sft/d3/5"
    assert EmbedOptions("sft", step=7).source == "sft/*/7"
    for wrong in ("sft/d3/x", "sft/d3/5/6"):
        with pytest.raises(ModelError, match="is no nanochat model; expected sft, sft/d<depth>"):
            resolve(wrong)
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"id": "a", "prompt": "the prompt"}) + "\n")
    how = ("-m", "scripts.kat_embed", "--ckpt_source", "sft", "--data", items)
    assert python(*how, "--model_tag", "d3", "--step", 5, "--out", tmp_path / "a.pt").rc == 0
    assert python(*how, "--out", tmp_path / "b.pt").rc == 0
    one, other = (torch.load(tmp_path / name, weights_only=True)["emb"] for name in ("a.pt", "b.pt"))
    assert not torch.equal(one, other)


def test_a_folder_of_a_checkpoints_name_is_named_by_its_place(base_dir, tmp_path, monkeypatch):
    save(base_dir, random_state(), family="base_checkpoints")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert "d3-10" in str(resolve("base").path)
    with pytest.raises(ModelError, match="base is no model directory"):
        resolve("./base")


@pytest.mark.parametrize("version", ["2025-10", "2026-03"])
def test_a_checkpoint_becomes_a_folder_for_transformers(base_dir, tmp_path, kat_cli, version):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    state, config = (random_state(), CONFIG) if version == "2025-10" else (later_state(LATER), LATER)
    save(base_dir, state, config)
    ran = kat_cli("export", "sft", tmp_path / "hf")
    assert ran.rc == 0, ran.stderr
    if version == "2026-03":
        assert "register()" in ran.stdout
    assert "skipped" in kat_cli("export", "sft", tmp_path / "hf").stdout
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ids = torch.tensor([[258, 5, 77, 200]])
    with torch.no_grad():
        wanted = kat.load_model("sft", kind="causal", device="cpu").model(ids).logits
        # transformers' own class keeps cos and sin in float32
        torch.testing.assert_close(made(ids).logits, wanted, rtol=0, atol=0.1)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template
    again = kat.load_model(str(tmp_path / "hf"), kind="causal", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, wanted)


def test_sentence_transformers_and_pickled_weights(tmp_path, kat_cli):
    assert kat_cli("export", "minilm", tmp_path / "m").rc == 0
    texts = ["One prompt.", "Another."]
    one, other = (kat.encode(texts, model=m, device="cpu") for m in ("minilm", str(tmp_path / "m")))
    assert (one.vectors == other.vectors).all()
    folder = tmp_path / "llama"
    tiny(folder, "Llama", pad_token_id=1)
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert kat_cli("export", folder, tmp_path / "safe").rc == 0
    assert (tmp_path / "safe" / "model.safetensors").is_file()
    assert not list((tmp_path / "safe").glob("*.bin"))
    one, other = (kat.encode(texts, model=str(m), device="cpu") for m in (folder, tmp_path / "safe"))
    assert abs(one.vectors - other.vectors).max() < 1e-6
    assert f"{folder} is the input, which is never overwritten" in kat_cli("export", folder, folder).failed()
    assert "No model nothing" in kat_cli("export", "nothing", tmp_path / "n").failed()
