"""`kat train-rm` from end to end: files, facts, weights, what is skipped, what resumes and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from making import read_jsonl
from making_training import tiny_chat_model

import kat

OPTIONS = {"precision": "float32", "device": "cpu", "batch_size": 16, "max_len": 400, "min_prompt": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of demo pairs with pair weights, and a tiny model that reads their words."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("rm")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "90"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=1500)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.25"])
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def train(folder, kat_cli):
    def run(*more):
        told = {name: value for name, value in OPTIONS.items() if f"--{name}" not in more}
        given = [part for name, value in told.items() for part in (f"--{name}", value)]
        return kat_cli("train-rm", folder / "run", "--model", folder / "tiny", *given, *more)

    return run


def rewards_by_class(folder, pair, chosen):
    """What Hugging Face's class gives for the template's text, without kat."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = pair.chosen_messages if chosen else pair.rejected_messages
    written = tokenizer.apply_chat_template([*pair.context, *turns], tokenize=False).removesuffix("\n")
    with torch.no_grad():
        return model(**tokenizer(written, add_special_tokens=False, return_tensors="pt")).logits.item()


@pytest.mark.parametrize("what", ["head", "last:1", "all"])
def test_from_pairs_to_a_model_for_everybody(folder, train, what, kat_cli):
    ran = train("--train", what)
    assert ran.rc == 0, ran.stderr
    out = folder / "run" / "rm"
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    pairs = dict(zip(table.pair_id, kat.read_pairs(folder / "pairs.jsonl"), strict=True))
    validates = [i for i, part in zip(table.pair_id, table.split, strict=True) if part == "validation"]
    trains = table.split == "train"
    manifest, report = (json.loads((out / name).read_text()) for name in ("manifest.json", "training.json"))
    dropped = sum(sum(bins.values()) for bins in report["dropped_by_bin"].values())
    assert sum(one["pairs"] for one in report["pays"]["bin"]) == report["train_pairs"]
    assert "of weight" in ran.stdout

    scores = read_jsonl(out / "validation_scores.jsonl")
    assert [row["pair_id"] for row in scores] == [i for i in validates if pairs[i].chosen != pairs[i].rejected]
    for row in scores[:6]:
        pair = pairs[row["pair_id"]]
        assert row["chosen"] == pytest.approx(rewards_by_class(out, pair, True), abs=1e-5)
        assert row["rejected"] == pytest.approx(rewards_by_class(out, pair, False), abs=1e-5)
        assert (row["opening_id"], row["src"]) == (pair.prefix.id, pair.src)

    assert manifest["options"]["train"] == what
    assert not manifest["options"]["uniform"]
    assert report["pairs_read"] == int((table.split != "").sum())
    assert report["train_pairs"] + report["validation_pairs"] + dropped == report["pairs_read"]
    assert report["train_pairs"] == int(trains.sum()) == report["training"]["pairs_trained"]
    v = table.v[trains]
    assert report["ess_pairs"] == pytest.approx(v.sum() ** 2 / (v**2).sum(), rel=1e-6)
    log = read_jsonl(out / "training_log.jsonl")
    assert [n["step"] for n in log] == list(range(1, report["training"]["steps"] + 1))
    assert sum(n["pairs"] for n in log) == report["train_pairs"]

    accuracy = np.mean([row["chosen"] > row["rejected"] for row in scores])
    card = (out / "README.md").read_text()
    assert f"accuracy, every pair       {accuracy:.1%}" in card
    for digest in manifest["inputs"].values():
        assert digest in card
    assert f"{report['train_pairs']} train, {report['validation_pairs']} validate" in card
    assert not (folder / "run" / "rm.unfinished").exists()

    again = train("--train", what)
    assert again.rc == 0
    assert "skip" in again.stdout + again.stderr
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert "--overwrite" in train("--train", what, "--epochs", "2").failed()

    judged = kat_cli(
        "evaluate-rm", out / "validation_scores.jsonl", "--pair_weights", folder / "run" / "pair_weights.parquet"
    )
    assert judged.rc == 0, judged.stderr
    assert f"{accuracy:.1%}" in judged.stdout + judged.stderr


def test_the_loss_of_the_first_step_is_weighed_by_v(folder, train):
    assert train("--train", "head", "--batch_size", "500").rc == 0
    [step] = read_jsonl(folder / "run" / "rm" / "training_log.jsonl")
    assert train("--train", "head", "--batch_size", "500", "--pair_weights", "uniform").rc == 0
    uniform = folder / "run" / "rm.uniform"
    [plain] = read_jsonl(uniform / "training_log.jsonl")
    assert plain["loss"] == plain["weighted_loss"] == pytest.approx(step["loss"], rel=1e-6)
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    pairs = dict(zip(table.pair_id, kat.read_pairs(folder / "pairs.jsonl"), strict=True))
    # The model before its one step of rate 0 … is the one that --learning_rate 0 saves.
    assert train("--train", "head", "--batch_size", "500", "--learning_rate", "0", "--out", folder / "start").rc == 0
    total = 0.0
    trains = [(i, v) for i, v in zip(table.pair_id, table.v, strict=True) if np.isfinite(v)]
    for pair_id, v in trains:
        both = [rewards_by_class(folder / "start", pairs[pair_id], side) for side in (True, False)]
        total += v * np.log1p(np.exp(both[1] - both[0]))
    assert step["weighted_loss"] == pytest.approx(total / len(trains), rel=1e-5)
    manifest = json.loads((uniform / "manifest.json").read_text())
    assert manifest["options"]["uniform"]
    assert "with uniform pair weights" in (uniform / "README.md").read_text()
    assert manifest["report"]["ess_pairs"] == len(trains)


def test_a_training_that_failed_midway_goes_on_and_ends_the_same(folder, train, monkeypatch):
    from kat.training.checkpoint import TrainingCheckpoint

    assert train("--save_every", "1", "--out", folder / "whole").rc == 0
    add, taken = TrainingCheckpoint.add, []

    def stops(self, numbers):
        if numbers["step"] == 3:
            raise KeyboardInterrupt
        taken.append(numbers["step"])
        add(self, numbers)

    monkeypatch.setattr(TrainingCheckpoint, "add", stops)
    assert train("--save_every", "1", "--out", folder / "cut").rc != 0
    assert (folder / "cut.unfinished" / "state.pt").is_file()
    monkeypatch.setattr(TrainingCheckpoint, "add", add)
    assert "cut.unfinished" in train("--out", folder / "cut", "--seed", "5").failed()
    ran = train("--save_every", "1", "--out", folder / "cut")
    assert "goes on at step 2" in ran.stderr
    for name in ("model.safetensors", "training_log.jsonl", "validation_scores.jsonl"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert not (folder / "cut.unfinished").exists()


def test_a_training_that_is_stopped_as_it_is_measured_trains_no_step_again(folder, train, monkeypatch):
    from kat.stages import pair_training

    told = ("--max_steps", "3", "--log_every", "25")
    whole = train(*told, "--out", folder / "whole")
    steps = [line.partition(":")[0] for line in whole.stderr.splitlines() if "step " in line]
    assert steps == ["train-rm  step 1", "train-rm  step 3"]
    assert "measures the" in whole.stderr
    with monkeypatch.context() as stopped:
        stopped.setattr(pair_training, "score_lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(*told, "--out", folder / "again").rc == 130
    again = train(*told, "--out", folder / "again")
    assert "goes on at step 3 of 3" in again.stderr
    for name in ("model.safetensors", "training_log.jsonl", "validation_scores.jsonl"):
        assert (folder / "again" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert not (folder / "again.unfinished").exists()


def test_what_is_missing_or_changed_says_what_to_type(folder, train):
    weights = folder / "run" / "pair_weights.parquet"
    kept = weights.read_bytes()
    weights.unlink()
    assert "kat weigh-pairs" in train().failed()
    weights.write_bytes(kept)
    pairs = folder / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("sourdough", "rye", 1))
    message = train().failed()
    assert "is not the file that" in message
    assert "--overwrite" in message
    assert not (folder / "run" / "rm").exists()


def test_long_completions_are_an_error_or_left_out_by_bin(folder, train):
    message = train("--max_len", "60").failed()
    assert "--long_completions drop" in message
    assert "row " in message
    assert train("--max_len", "60", "--long_completions", "drop", "--train", "head").rc == 0
    report = json.loads((folder / "run" / "rm" / "training.json").read_text())
    left_out = sum(sum(bins.values()) for bins in report["dropped_by_bin"].values())
    assert left_out > 0
    assert report["train_pairs"] + report["validation_pairs"] + left_out == report["pairs_read"]


def test_no_pair_left_says_how_many_went_where(folder, train):
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    message = train("--max_len", "33", "--long_completions", "drop").failed()
    assert "No pair is left to train: 0 validate." in message
    assert f"{len(table)} left out: a completion longer than max_len" in message
    assert "Raise --max_len" in message


def test_the_model_that_training_starts_from_is_never_written_over(folder, train):
    before = {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()}
    assert "is the input, which is never overwritten" in train("--out", folder / "tiny", "--overwrite").failed()
    assert {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()} == before


def test_a_run_is_no_place_for_a_model(folder, train):
    before = {path.name for path in (folder / "run").iterdir()}
    assert "is the folder of a run" in train("--out", folder / "run").failed()
    assert {path.name for path in (folder / "run").iterdir()} == before
