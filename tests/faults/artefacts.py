"""One of everything that kat writes or reads as a model, made once and damaged in copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from making import jsonl, pair, tiny
from making_training import random_tokens, reward_model, tiny_chat_model

import kat

ASKED = {"stage": "train-rm", "kat_version": "1", "inputs": {"pairs": "0" * 64}, "options": {"seed": 0}}
_WORDS = ["red", "green", "blue", "grey"]
_TRAINING: Any = {"train": "head", "batch_size": 2, "epochs": 1, "save_every": 1}


def build(base: Path) -> Path:
    """Make one of everything: a run, scores, embeddings in files, models of several kinds, checkpoints."""
    from kat.cli import main as cli

    rows = [
        pair(f"Why is {a} {b} number {i}?", f"{a} it is", f"{b}?") for i in range(2) for a in _WORDS for b in _WORDS
    ]
    run = base / "run"
    run.mkdir()
    (run / "pairs.jsonl").write_bytes(jsonl(*rows))
    model = Path(tiny_chat_model(base / "chat", texts=[json.dumps(row) for row in rows], causal=True))
    told = ["--model", str(model), "--device", "cpu"]
    cli.main(["run", str(run / "pairs.jsonl"), "--out", str(run), *told])
    cli.main(["weigh-pairs", str(run), "--validation_share", "0.3"])
    ids = kat.read_pair_weights(run / "pair_weights.parquet").pair_id.tolist()
    scores = [{"pair_id": one, "chosen": 1.0, "rejected": float(i % 2)} for i, one in enumerate(ids)]
    (run / "scores.jsonl").write_bytes(jsonl(*scores))
    cli.main(["embed", str(run / "prefixes_all.jsonl"), *told, "--out", str(base / "file" / "e.pt")])
    _vectors(run, base / "file")
    _sentence_model(base / "sentence")
    tiny(base / "bert", "Bert")
    _nanochat(base / "base")
    _checkpoints(model, base / "kept")
    return base


def _vectors(run: Path, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.load(run / "embeddings" / "embeddings.npy")
    shutil.copy(run / "embeddings" / "embeddings.npy", folder / "v.npy")
    shutil.copy(run / "embeddings" / "ids.json", folder / "ids.json")
    ids = json.loads((folder / "ids.json").read_bytes())
    pq.write_table(pa.table({"id": ids, "embedding": [one.tolist() for one in vectors]}), folder / "v.parquet")


def _sentence_model(folder: Path) -> None:
    from safetensors.torch import save_file
    from torch import nn

    tiny(folder, "Bert")
    own = "sentence_transformers.models."
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    said: dict[str, Any] = {
        "modules.json": [{"idx": i, "name": str(i), "path": p, "type": own + k} for i, (p, k) in enumerate(kinds)],
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": True},
        "config_sentence_transformers.json": {"prompts": {"q": "ask: "}, "default_prompt_name": "q"},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 32, "out_features": 8, "bias": True},
    }
    said["2_Dense/config.json"]["activation_function"] = "torch.nn.modules.activation.Tanh"
    for name, value in said.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    save_file(
        {f"linear.{k}": v for k, v in nn.Linear(32, 8).state_dict().items()}, folder / "2_Dense/model.safetensors"
    )


def _nanochat(base: Path) -> None:
    from making_nanochat import LATER, later_state, random_state, save

    base.mkdir()
    save(base, random_state())
    save(base, later_state(LATER), LATER, family="base_checkpoints", tag="d6")


def train(folder: Path, model: Path) -> None:
    from kat.training.checkpoint import TrainingCheckpoint
    from kat.training.train import fit
    from kat.training_config import RewardOptions

    data = random_tokens(0, [2, 2])
    with TrainingCheckpoint(folder, ASKED) as checkpoint:
        options = RewardOptions(precision="float32", **_TRAINING)
        fit(reward_model(str(model)), data, np.ones(len(data)), options, checkpoint=checkpoint, on_step=checkpoint.add)


def _checkpoints(model: Path, base: Path) -> None:
    from kat.embedding.checkpoint import EmbeddingCheckpoint
    from kat.training.features import branch_features
    from kat.training.scoring import ScoreCheckpoint, branches_of

    train(base / "training", model)
    shutil.copytree(model, base / "model")
    with EmbeddingCheckpoint(base / "embedding", ASKED, (4, 3)) as kept:
        plan = [np.arange(2), np.arange(2, 4)]
        kept.begin_window(0, plan, 4)
        for number, rows in enumerate(plan):
            kept.pack_done(0, number, rows)
    with ScoreCheckpoint(base / "scores", ASKED) as scores:
        scores.begin(4)
        scores.done(0, np.arange(4))
    data = random_tokens(0, [2, 2])
    branch_features(reward_model(str(model)), data, branches_of(data), 512, cache=base / "features")
