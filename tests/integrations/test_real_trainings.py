"""Real pairs from file to trained model: run, weigh, export, and a short training with each of TRL's trainers."""

import gzip
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1'")

from datasets import disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import GRPOConfig, RewardConfig

import kat
from kat.integrations.trl import DensityGRPOTrainer, WeightedRewardTrainer

disable_progress_bars()
LONGEST = 700
HOW = {"report_to": [], "use_cpu": True, "bf16": False, "save_strategy": "no", "disable_tqdm": True}
HOW |= {"gradient_checkpointing": False, "logging_steps": 1, "learning_rate": 1e-3, "max_steps": 4}


@pytest.fixture(scope="module")
def weighed(real_data, tmp_path_factory):
    """The first 200 pairs of pairs.hh_singleturn.train with weights, and what TRL reads of them."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("hh")
    with gzip.open(real_data / "pairs.hh_singleturn.train.jsonl.gz") as source:
        (folder / "pairs.jsonl").write_bytes(b"".join(islice(source, 200)))
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run")])
    cli.main(["export-weights", str(folder / "run"), "--to", "trl", "--out", str(folder / "run" / "trl")])
    return folder


@pytest.fixture(scope="module")
def tiny_bytes(tmp_path_factory):
    """A random Llama that reads bytes, so that no two texts are the same to it, and its tokenizer."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate(["[PAD]", "[END]", *alphabet])}
    backend = Tokenizer(models.BPE(words, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", eos_token="[END]", padding_side="left"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}[END]{% endfor %}"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=len(words), pad_token_id=0, max_position_embeddings=4096, **sizes)
    folder = tmp_path_factory.mktemp("bytes")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder), tokenizer


def parquet(path):
    return load_dataset("parquet", data_files=str(path), split="train")


def moved(trainer) -> bool:
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    return any(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_a_reward_model_trains_on_weighed_pairs(weighed, tiny_bytes, tmp_path):
    folder, tokenizer = tiny_bytes
    data = parquet(weighed / "run" / "trl" / "explicit.train.parquet")
    trainer = WeightedRewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1),
        RewardConfig(str(tmp_path), max_length=LONGEST, per_device_train_batch_size=8, **HOW),
        train_dataset=data,
        processing_class=tokenizer,
        pair_weights=weighed / "run" / "pair_weights.parquet",
        allow_dropped="all",
    )
    table = kat.read_pair_weights(weighed / "run" / "pair_weights.parquet")
    v = table.training_weights()
    assert dict(zip(trainer.train_dataset["pair_id"], trainer.train_dataset["weight"], strict=True)) == {
        one: v[one] for one in v if one not in trainer.dropped
    }

    def size(row, side):
        return len(tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=True)["input_ids"])

    long = [row["pair_id"] for row in data if max(size(row, "chosen"), size(row, "rejected")) > LONGEST]
    assert long
    assert sorted(trainer.dropped) == sorted(long)
    assert moved(trainer)


def test_the_pages_example_of_dpo_trains_on_weighed_pairs(weighed, tiny_bytes, tmp_path, monkeypatch):
    """The block of docs/integrations.md, with a tiny policy and few steps."""
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    block = next(one for one in page.split("```")[1::2] if "WeightedDPOTrainer" in one)
    folder, tokenizer = tiny_bytes
    tokenizer.save_pretrained(tmp_path / "my-model")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "my-model")
    (tmp_path / "run").symlink_to(weighed / "run")
    assert block.count('DPOConfig("dpo")') == 1
    few = HOW | {"max_length": None, "per_device_train_batch_size": 2}
    namespace = {}
    monkeypatch.chdir(tmp_path)
    exec(block.replace('DPOConfig("dpo")', f'DPOConfig("dpo", **{few})'), namespace)
    trainer = namespace["trainer"]
    v = kat.read_pair_weights(weighed / "run" / "pair_weights.parquet").training_weights()
    assert dict(zip(trainer.train_dataset["pair_id"], trainer.train_dataset["weight"], strict=True)) == v
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    first, last = trainer.ref_model.state_dict(), trainer.model.state_dict()
    assert any(not torch.equal(first[name], last[name]) for name in last)


def test_the_pages_example_of_a_frame_trains_on_weighed_pairs(tiny_bytes, tmp_path, monkeypatch):
    """The block of docs/integrations.md for pairs that Python holds, of which a tenth validates."""
    pandas = pytest.importorskip("pandas")
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    [block] = [one for one in page.split("```")[1::2] if "kat.run(frame" in one]
    folder, tokenizer = tiny_bytes
    tokenizer.save_pretrained(tmp_path / "my-model")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "my-model")
    things = [f"{verb} {thing}" for verb in ("sort", "copy") for thing in ("a list", "a dict", "a tuple", "a set")]
    prompts = [f"How do I {things[i % 8]} in Python?" for i in range(40)] + ["What is a kenning?", "Who was Tasman?"]
    rows = [{"prompt": p, "chosen": f"Like so {i}.", "rejected": f"No idea {i}."} for i, p in enumerate(prompts)]
    assert block.count('DPOConfig("dpo")') == 1
    few = HOW | {"max_length": None, "per_device_train_batch_size": 2}
    namespace = {"frame": pandas.DataFrame(rows)}
    monkeypatch.chdir(tmp_path)
    exec(block.replace('DPOConfig("dpo")', f'DPOConfig("dpo", **{few})'), namespace)
    weighed, trainer = namespace["weighed"], namespace["trainer"]
    assert len(weighed) == 42
    v = weighed.training_weights()
    assert 0 < len(v) < 42
    assert dict(zip(trainer.train_dataset["pair_id"], trainer.train_dataset["weight"], strict=True)) == v
    opening = {pair.id: pair.prefix.opening for pair in kat.read_pairs(pandas.DataFrame(rows))}
    frame = namespace["frame"]
    assert {one: opening[one] for one in v} == dict(zip(frame["pair_id"], frame["prompt"], strict=True))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert np.isfinite(losses).all()


def test_grpo_asks_real_prompts_by_weight(weighed, tiny_bytes, tmp_path):
    folder, tokenizer = tiny_bytes
    data, asked = parquet(weighed / "run" / "trl" / "prompts.train.parquet"), []

    def reward(prompts, completions, **_):
        asked.extend(prompts)
        return [float(len(str(one))) for one in completions]

    trainer = DensityGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=reward,
        args=GRPOConfig(
            str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=4,
            gradient_accumulation_steps=8,
            max_completion_length=4,
            **HOW,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        opening_weights=weighed / "run" / "pair_weights.parquet",
    )
    assert moved(trainer)
    assert len(asked) == 4 * 64
    assert all(asked[i] == asked[i - i % 4] for i in range(len(asked)))
    expected = [data[row]["prompt"] for row in trainer.order.rows(len(data) // 16 * 16, 0).tolist()]
    assert asked[::4] == expected[:64]
    drawn = Counter(data[row]["opening_id"] for row in trainer.order.rows(len(data), 0).tolist())
    w = dict(zip(data["opening_id"], data["weight"], strict=True))
    for one, weight in w.items():
        count = len(data) * weight / sum(w.values())
        assert np.floor(count - 1e-9) <= drawn[one] <= np.ceil(count + 1e-9)
