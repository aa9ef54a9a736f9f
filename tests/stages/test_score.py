"""`kat score`: the rewards of a run and of files, those of training, resumed, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from making import read_jsonl
from making_training import tiny_chat_model

import kat

FLOAT32 = ("--precision", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of demo pairs with pair weights, and a reward model (rm) trained on it."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("score")
    run = str(folder / "run")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "60"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=1500)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", run, "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", run, "--validation_share", "0.25"])
    limits = ["--max_len", "390", "--min_prompt", "40"]
    cli.main(["train-rm", run, "--model", model, "--train", "head", "--out", str(folder / "rm"), *limits, *FLOAT32])
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def score(folder, kat_cli):
    def run(pairs, name, *more):
        ran = kat_cli("score", folder / "rm", pairs, "--out", folder / name, *FLOAT32, *more)
        return ran

    return run


def rewards(path):
    return {row["pair_id"]: (row["chosen"], row["rejected"]) for row in read_jsonl(path)}


def test_a_run_and_its_file_get_the_rewards_of_training(folder, score, kat_cli):
    ran = score(folder / "run", "run.jsonl")
    assert ran.rc == 0
    assert (
        f"kat evaluate-rm {folder / 'run.jsonl'} --pair_weights {folder / 'run' / 'pair_weights.parquet'}" in ran.stdout
    )
    plain = score(folder / "pairs.jsonl", "file.jsonl")
    assert plain.rc == 0
    assert "--pair_weights" not in plain.stdout
    assert "  train" not in plain.stdout
    assert score(folder / "run" / "pair_weights.parquet", "table.jsonl").rc == 0
    of_run, of_file = rewards(folder / "run.jsonl"), rewards(folder / "file.jsonl")
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    kept = table.pair_id[table.split != ""].tolist()
    assert list(of_run) == kept
    assert list(of_file) == [pair.id for pair in kat.read_pairs(folder / "pairs.jsonl")]
    assert (folder / "table.jsonl").read_bytes() == (folder / "run.jsonl").read_bytes()
    for pair_id in kept:
        assert of_run[pair_id] == pytest.approx(of_file[pair_id], abs=1e-5)
    trained = rewards(folder / "rm" / "validation_scores.jsonl")
    assert trained
    parts = json.loads((folder / "run.jsonl.manifest.json").read_text())["report"]["parts"]
    for name, one in parts.items():
        right = [np.sign(c - r) / 2 + 0.5 for i, (c, r) in of_run.items() if table.split[table.pair_id == i] == name]
        assert one == {"pairs": len(right), "accuracy": pytest.approx(np.mean(right))}
        assert f"  {name:<10}  {len(right):,} pairs, {np.mean(right):.1%}" in ran.stdout
    assert parts["validation"]["pairs"] == len(trained)
    for pair_id, both in trained.items():
        assert of_run[pair_id] == pytest.approx(both, abs=1e-5)
    by_id = {pair.id: pair for pair in kat.read_pairs(folder / "pairs.jsonl")}
    for row in read_jsonl(folder / "file.jsonl"):
        pair = by_id[row["pair_id"]]
        assert (row["opening_id"], row["src"]) == (pair.prefix.id, pair.src)

    weights = folder / "run" / "pair_weights.parquet"
    accuracy = np.mean([chosen > rejected for chosen, rejected in trained.values()])
    for name in ("run.jsonl", "rm/validation_scores.jsonl"):
        judged = kat_cli("evaluate-rm", folder / name, "--pair_weights", weights)
        assert judged.rc == 0, judged.stderr
        assert f"{accuracy:.1%}" in judged.stdout + judged.stderr
    manifest = json.loads((folder / "run.jsonl.manifest.json").read_text())
    assert (manifest["options"]["max_len"], manifest["options"]["min_prompt"]) == (390, 40)  # the model's own
    right = np.mean([chosen > rejected for chosen, rejected in of_run.values()])
    assert manifest["report"]["accuracy"] == pytest.approx(right)
    assert "skip" in (ran := score(folder / "run", "run.jsonl")).stdout + ran.stderr


def test_scoring_that_was_stopped_goes_on_and_ends_the_same(folder, score, monkeypatch):
    from kat.training.reward import RewardModel
    from kat.training.scoring import ScoreCheckpoint

    small = ("--row_tokens", "300")
    assert score(folder / "run", "whole.jsonl", *small).rc == 0
    done, rows = ScoreCheckpoint.done, []

    def stops(self, number, branches):
        if number == 4:
            raise KeyboardInterrupt
        done(self, number, branches)

    monkeypatch.setattr(ScoreCheckpoint, "done", stops)
    assert score(folder / "run", "cut.jsonl", *small).rc != 0
    assert not (folder / "cut.jsonl").exists()
    monkeypatch.setattr(ScoreCheckpoint, "done", lambda self, n, b: (rows.append(n), done(self, n, b)))
    compute = RewardModel.rewards
    computed = []
    monkeypatch.setattr(RewardModel, "rewards", lambda self, *a: (computed.append(1), compute(self, *a))[1])
    assert "cut.jsonl.unfinished" in score(folder / "pairs.jsonl", "cut.jsonl", *small).failed()
    assert score(folder / "run", "cut.jsonl", *small).rc == 0
    assert rows[0] == 4
    assert len(computed) == len(rows)
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert not (folder / "cut.jsonl.unfinished").exists()


def test_scoring_goes_on_in_the_precision_that_it_began_in(folder, kat_cli, monkeypatch):
    from kat.training.scoring import ScoreCheckpoint

    multiplies = "kat.training.train.multiplies_bfloat16"
    asked = ("score", folder / "rm", folder / "run", "--out", folder / "cut.jsonl", "--row_tokens", "300")
    asked += ("--device", "cpu")
    done = ScoreCheckpoint.done

    def stops(self, number, branches):
        if number == 4:
            raise KeyboardInterrupt
        done(self, number, branches)

    monkeypatch.setattr(multiplies, lambda device: True)
    monkeypatch.setattr(ScoreCheckpoint, "done", stops)
    assert kat_cli(*asked).rc != 0
    monkeypatch.setattr(ScoreCheckpoint, "done", done)
    monkeypatch.setattr(multiplies, lambda device: False)
    message = kat_cli(*asked).failed()
    assert "computed" in message
    assert "cut.jsonl.unfinished" in message
    monkeypatch.setattr(multiplies, lambda device: True)
    assert kat_cli(*asked).rc == 0
    assert not (folder / "cut.jsonl.unfinished").exists()


def test_prompts_that_lose_their_beginning_are_counted(folder, score, kat_cli):
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()[:6]]
    long = "again and " * 400
    for pair in pairs[:2]:
        first = pair["prefix"]["messages"][0]
        first["content"] = long + first["content"]
    (folder / "some.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    count = len({json.dumps(pair["prefix"]) for pair in pairs[:2]})
    ran = score(folder / "some.jsonl", "some.rewards.jsonl")
    assert ran.rc == 0, ran.stderr
    assert f"  prompts cut at their start {count}\n" in ran.stdout
    assert json.loads((folder / "some.rewards.jsonl.manifest.json").read_text())["report"]["prompts_cut"] == count
    assert "cut at their start" in kat_cli("show", folder / "some.rewards.jsonl").stdout


def test_what_is_refused(folder, score, kat_cli):
    message = score(folder / "pairs.jsonl", "long.jsonl", "--max_len", "60").failed()
    assert "--long_completions drop" in message
    assert score(folder / "pairs.jsonl", "long.jsonl", "--max_len", "60", "--long_completions", "drop").rc == 0
    report = json.loads((folder / "long.jsonl.manifest.json").read_text())["report"]
    assert report["pairs"] + sum(report["left_out"].values()) == 60
    assert report["pairs"] == len(read_jsonl(folder / "long.jsonl"))
    pairs = folder / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("sourdough", "rye", 1))
    assert "is not the file that" in score(folder / "run", "changed.jsonl").failed()
    missing = kat_cli("score", folder / "none", pairs, "--out", folder / "x.jsonl")
    assert str(folder / "none") in missing.failed()


def test_a_run_is_read_as_it_was_weighed_and_told_otherwise_says_so(folder, score):
    message = score(folder / "run", "told.jsonl", "--unit", "context", "--score_conflict", "swap").failed()
    assert "--unit context" in message
    assert "--score_conflict swap" in message
    assert "the defaults" in message
    assert not (folder / "told.jsonl").exists()
    assert score(folder / "run", "same.jsonl", "--unit", "opening").rc == 0


def test_a_file_of_which_no_pair_is_left(folder, score):
    """With all pairs left out there is nothing to score, and it is said instead of an accuracy of nothing."""
    ran = score(
        folder / "pairs.jsonl", "none.jsonl", "--max_len", "2", "--min_prompt", "1", "--long_completions", "drop"
    )
    assert "nothing is left" in ran.failed().lower()
    assert not (folder / "none.jsonl").exists()
