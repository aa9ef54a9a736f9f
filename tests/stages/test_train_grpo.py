"""`kat train-grpo` from end to end: prompts and their parts, files, facts, what resumes, what is skipped or refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import transformers
from making import read_jsonl
from making_training import tiny_chat_model
from safetensors.torch import load_file

import kat
from kat.reports import forms

OPTIONS = {
    "precision": "float32",
    "device": "cpu",
    "batch_size": 3,
    "num_generations": 3,
    "max_new_tokens": 6,
    "max_len": 300,
    "min_prompt": 32,
    "max_steps": 3,
    "learning_rate": 0.001,
    "fixed_prompts": 2,
    "eval_every": 2,
    "save_every": 1,
}
FUNCTION = "def by_length(prefixes, completions):\n    return [float(len(c)) for c in completions]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of demo pairs with pair weights, a tiny policy, a tiny reward model, and a reward function."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("grpo")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "90"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=1500, causal=True)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.25"])
    told = ("--train", "head", "--model", model, "--device", "cpu", "--out", str(folder / "rm"), "--max_len", "400")
    cli.main(["train-rm", str(folder / "run"), *told])
    (folder / "rewards_here.py").write_text(FUNCTION)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    copied = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(copied)
    monkeypatch.syspath_prepend(str(copied))
    return copied


def arguments(folder, *more, reward="rewards_here:by_length"):
    told = {name: value for name, value in OPTIONS.items() if f"--{name}" not in more}
    given = [str(part) for name, value in told.items() for part in (f"--{name}", value)]
    rewards = [] if reward is None else ["--reward", str(reward)]
    return ["train-grpo", str(folder / "run"), "--policy", str(folder / "tiny"), *rewards, *given, *map(str, more)]


@pytest.fixture
def train(folder, kat_cli):
    return lambda *more, **told: kat_cli(*arguments(folder, *more, **told))


def test_from_a_run_to_a_policy_for_everybody(folder, train, kat_cli):
    ran = train(reward=folder / "rm")
    assert ran.rc == 0, ran.stderr
    out = folder / "run" / "grpo"
    manifest, report = (json.loads((out / name).read_text()) for name in ("manifest.json", "training.json"))
    log = read_jsonl(out / "training_log.jsonl")
    assert [one["step"] for one in log] == [1, 2, 3]
    for name in ("reward", "kl", "entropy", "length", "truncated", "dropped", "distinct_2", "spread_within"):
        assert name in log[0], name
    assert report["training"]["by_bin"]["drawn"]
    assert manifest["options"]["drawn"] == "density"
    assert report["trend"] is None

    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    part_of = dict(zip(table.opening_id.tolist(), table.split.tolist(), strict=True))
    bin_of = dict(zip(table.opening_id.tolist(), table.bin.tolist(), strict=True))
    answers = read_jsonl(out / "completions.jsonl")
    for form, values in ((forms.POLICY, [report]), (forms.LOG, log), (forms.ANSWER, answers)):  # as a report reads them
        assert [fault for one in values if (fault := forms.first_fault(one, form))] == []
    assert {row["step"] for row in answers} == {0, 2, 3}
    assert len({row["id"] for row in answers}) == len(answers)
    for row in answers:
        assert part_of[row["opening_id"]] == "validation"
        assert bin_of[row["opening_id"]] == row["bin"]
        assert row["tokens"] <= 6
    first = [row for row in answers if row["step"] == 0]
    assert all(row["kl"] == pytest.approx(0, abs=1e-7) for row in first)

    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.apply_chat_template(first[0]["prompt"], tokenize=False)
    start = load_file(folder / "tiny" / "model.safetensors")
    assert any(not torch.equal(p, start[name]) for name, p in model.state_dict().items() if name in start)
    assert "kat train-grpo" in (out / "README.md").read_text()

    how = ("--device", "cpu", "--precision", "float32")  # as the training rewarded
    scored = kat_cli("score", folder / "rm", out / "completions.jsonl", "--out", folder / "s.jsonl", *how)
    assert scored.rc == 0, scored.stderr
    given = {row["id"]: row["reward"] for row in read_jsonl(folder / "s.jsonl")}
    for row in answers:
        assert given[row["id"]] == pytest.approx(row["reward"], abs=1e-4)

    assert "skip" in train(reward=folder / "rm").stdout + ran.stderr or train(reward=folder / "rm").rc == 0
    assert "--overwrite" in train("--seed", 4, reward=folder / "rm").failed()


def test_prompts_that_are_read_in_part_are_counted(folder, train, kat_cli, monkeypatch):
    from kat.training import train_grpo

    tokens_of = train_grpo.prompts_of_policy
    monkeypatch.setattr(
        train_grpo, "prompts_of_policy", lambda *told: replace(tokens_of(*told), tools_unread=len(told[1]))
    )
    ran = train("--max_len", 20, "--min_prompt", 1)
    assert ran.rc == 0, ran.stderr
    report = json.loads((folder / "run" / "grpo" / "training.json").read_text())
    prompts, fixed = report["prompts"], report["fixed_prompts"]  # with their template none fits into 14 tokens
    assert (report["prompts_cut"], report["prompts_whose_tools_are_not_written"]) == (prompts, prompts)
    assert report["fixed_prompts_cut"] == fixed > 0
    for said in (ran.stdout, kat_cli("show", folder / "run" / "grpo").stdout):
        assert f"prompts cut at their start {prompts:,}\n" in said
        assert f"does not write the tools of {prompts:,} prompts\n" in said
        assert f"; {fixed:,} cut at their start\n" in said


def test_uniform_is_another_draw_into_another_folder(folder, train):
    assert train("--draw", "uniform").rc == 0
    assert json.loads((folder / "run" / "grpo.uniform" / "manifest.json").read_text())["options"]["drawn"] == "uniform"


def test_rewards_are_added_each_times_its_weight(folder, train):
    more = ("--reward", folder / "rm", "--reward_weights", "2", "--reward_weights", "0.5", "--out", folder / "both")
    assert train(*more).rc == 0
    assert train("--out", folder / "one").rc == 0
    assert train("--out", folder / "other", reward=folder / "rm").rc == 0
    both, one, other = (read_jsonl(folder / name / "completions.jsonl") for name in ("both", "one", "other"))
    for together, first, second in zip(both, one, other, strict=True):
        if together["step"] == 0:
            assert together["reward"] == pytest.approx(2 * first["reward"] + 0.5 * second["reward"], abs=1e-4)
    assert "reward_weights" in train("--reward_weights", "2", "--reward_weights", "1", "--out", folder / "x").failed()


def test_a_training_that_was_killed_goes_on_and_ends_the_same(folder):
    """All in processes of their own: what tests before this one left in torch may round otherwise."""
    told = ("--max_steps", "6")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    how = {"env": environment, "cwd": folder, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    whole, command = (
        [sys.executable, "-m", "kat.cli", *arguments(folder, *told, "--out", folder / name)]
        for name in ("whole", "cut")
    )
    assert subprocess.run(whole, check=False, **how).returncode == 0
    child = subprocess.Popen(command, **how)
    log = folder / "cut.unfinished" / "log.jsonl"
    for _ in range(600):
        if child.poll() is not None or (log.is_file() and log.read_bytes().count(b'"reward_std"') >= 2):
            break
        time.sleep(0.05)
    if child.poll() is None:
        child.send_signal(signal.SIGKILL)
    child.wait()
    assert subprocess.run(command, check=False, **how).returncode == 0
    for name in ("model.safetensors", "completions.jsonl"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    logs = [read_jsonl(folder / name / "training_log.jsonl") for name in ("cut", "whole")]
    for one, other in zip(*logs, strict=True):
        assert {k: v for k, v in one.items() if "second" not in k} == {
            k: v for k, v in other.items() if "second" not in k
        }


def test_what_is_missing_says_what_to_type(folder, train):
    assert "is not there" in train(reward="rewards_here:nothing").failed()
    assert "--reward" in train(reward=None).failed()
    (folder / "run" / "pair_weights.parquet").unlink()
    assert "kat weigh-pairs" in train().failed()


def test_two_processes_do_what_one_does(folder):
    pytest.importorskip("accelerate")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, sys.path)])
    for count in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
        command = [sys.executable, *launcher, "-m", "kat.cli", *arguments(folder, "--out", folder / f"of{count}")]
        ran = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("train-grpo  ") == 1
    logs = [read_jsonl(folder / f"of{count}" / "training_log.jsonl") for count in (1, 2)]
    for alone, together in zip(*logs, strict=True):
        for name in ("reward", "length", "loss", "gradient_norm", "kl", "entropy"):
            assert together[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name
    one, two = (load_file(folder / f"of{count}" / "model.safetensors") for count in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_training_by_a_reward_that_changed_is_another(folder, train):
    assert train().rc == 0
    assert "skip" in train().stdout
    (folder / "rewards_here.py").write_text(FUNCTION + "\n# another\n")
    assert "--overwrite" in train().failed()
