"""`kat score` of policies: implicit rewards are log-ratios to the reference, which is found, checked, or named."""

import json
import shutil

import numpy as np
import pytest
from making import read_jsonl
from making_training import letters_tokenizer, tiny_chat_model
from safetensors.torch import load_file, save_file

TOLD = ("--device", "cpu", "--precision", "float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with pair weights, and a policy that DPO trained on it."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("scored")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "40"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=1000, causal=True)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.25"])
    limits = ["--max_len", "400", "--min_prompt", "32", "--learning_rate", "0.001", "--beta", "0.3"]
    cli.main(["train-dpo", str(folder / "run"), "--policy", model, "--batch_size", "8", *TOLD, *limits])
    assert (folder / "run" / "dpo" / "config.json").is_file()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def score(folder, kat_cli):
    def run(*more, model=None, of=None):
        return kat_cli(
            "score", model or folder / "run" / "dpo", of or folder / "run", "--out", folder / "s.jsonl", *TOLD, *more
        )

    return run


def test_scores_are_those_of_the_training(folder, score, kat_cli):
    ran = score()
    assert ran.rc == 0, ran.stderr
    rows = {row["pair_id"]: row for row in read_jsonl(folder / "s.jsonl")}
    told = read_jsonl(folder / "run" / "dpo" / "validation_scores.jsonl")
    assert len(rows) > len(told) > 4
    for row in told:
        assert rows[row["pair_id"]]["chosen"] == pytest.approx(row["chosen"], abs=5e-4)
        assert rows[row["pair_id"]]["rejected"] == pytest.approx(row["rejected"], abs=5e-4)
    assert max(abs(row["chosen"]) for row in told) > 0.01
    manifest = json.loads((folder / "s.jsonl.manifest.json").read_text())
    assert manifest["options"]["beta"] == 0.3
    assert {"model", "reference", "reference_settings"} <= set(manifest["inputs"])
    assert not [path for path in folder.iterdir() if "unfinished" in path.name]
    weights = folder / "run" / "pair_weights.parquet"
    assert kat_cli("evaluate-rm", folder / "s.jsonl", "--pair_weights", weights).rc == 0
    assert "skip" in score().stdout


def test_a_reference_that_is_another_or_gone_is_an_error(folder, score):
    shutil.move(folder / "tiny", folder / "elsewhere")
    message = score().failed()
    assert "tiny" in message
    assert "--reference" in message
    assert score("--reference", folder / "elsewhere").rc == 0
    first = (folder / "s.jsonl").read_bytes()
    shutil.copytree(folder / "run" / "dpo", folder / "tiny", ignore=shutil.ignore_patterns("manifest.json"))
    assert "another policy by now" in score("--overwrite").failed()
    assert (folder / "s.jsonl").read_bytes() == first


def test_any_policy_has_log_ratios_to_a_named_one(folder, score):
    """Of a policy to itself all are zero, and against each other they change their sign."""
    assert score("--reference", folder / "run" / "dpo").rc == 0
    assert all(row["chosen"] == row["rejected"] == 0 for row in read_jsonl(folder / "s.jsonl"))
    assert score("--overwrite", "--max_len", "400", "--min_prompt", "32").rc == 0
    ahead = read_jsonl(folder / "s.jsonl")
    back = ("--reference", folder / "run" / "dpo", "--max_len", "400", "--min_prompt", "32", "--overwrite")
    assert score(*back, model=folder / "tiny").rc == 0
    for one, other in zip(ahead, read_jsonl(folder / "s.jsonl"), strict=True):
        assert other["chosen"] / 0.1 == pytest.approx(-one["chosen"] / 0.3, abs=2e-3)  # the default β, and the trained


def test_a_reference_of_other_tokens_is_an_error(folder, score):
    other = tiny_chat_model(folder / "other", causal=True)
    letters_tokenizer(vocabulary=330).save_pretrained(other)
    assert "another vocabulary" in score("--reference", other).failed()
    assert not (folder / "s.jsonl").exists()


def test_work_that_was_stopped_goes_on(folder, score, monkeypatch):
    from kat.training.implicit import SequenceLogProbs

    small = ("--row_tokens", "300")
    assert score(*small).rc == 0
    whole = (folder / "s.jsonl").read_bytes()
    (folder / "s.jsonl").unlink()
    (folder / "s.jsonl.manifest.json").unlink()
    rewards, computed = SequenceLogProbs.rewards, []

    def counted(self, row, ends):
        computed.append(1)
        if len(computed) == stop:
            raise KeyboardInterrupt
        return rewards(self, row, ends)

    monkeypatch.setattr(SequenceLogProbs, "rewards", counted)
    stop = -1
    assert score(*small).rc == 0
    total = len(computed)
    for stop in (3, total - 2):  # in the policy's part, and in the reference's
        for name in ("s.jsonl", "s.jsonl.manifest.json"):
            (folder / name).unlink()
        computed.clear()
        assert score(*small).rc == 130
        computed.clear()
        done, stop = stop - 1, -1
        assert score(*small).rc == 0
        assert len(computed) == total - done
        assert (folder / "s.jsonl").read_bytes() == whole
        assert not [path for path in folder.iterdir() if "unfinished" in path.name]


def test_completions_are_rewarded_too(folder, score):
    asked = folder / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "How do I boil an egg?", "completions": ["In water.", "No."]}) + "\n")
    ran = score(of=asked)
    assert ran.rc == 0, ran.stderr
    [row] = read_jsonl(folder / "s.jsonl")
    assert np.isfinite(row["rewards"]).all()
    assert len({round(value, 6) for value in row["rewards"]}) == 2


def test_a_reward_model_takes_no_reference(folder, score, kat_cli):
    told = ("--model", folder / "tiny", "--train", "head", "--max_steps", "1", "--max_len", "400", "--min_prompt", "32")
    assert kat_cli("train-rm", folder / "run", *told, *TOLD).rc == 0
    assert "--reference" in score("--reference", folder / "tiny", model=folder / "run" / "rm").failed()


def test_a_policy_is_no_reward_model(folder, score):
    """Without a head kat would draw one, and the rewards were noise that looks like rewards."""
    assert "--reference" in score(model=folder / "tiny").failed()
    manifest = folder / "run" / "dpo" / "manifest.json"
    manifest.write_text("[]")
    assert "no reward head" in score().failed()
    assert not (folder / "s.jsonl").exists()


def test_rewards_that_are_no_numbers_are_an_error(folder, score):
    broken = shutil.copytree(folder / "tiny", folder / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "no finite number, first " in score("--reference", folder / "tiny", model=broken).failed()
    assert not (folder / "s.jsonl").exists()
