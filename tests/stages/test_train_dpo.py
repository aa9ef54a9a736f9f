"""`kat train-dpo` from end to end: files, implicit rewards, weights, the kept reference, and what resumes."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from making import read_jsonl
from making_training import tiny_chat_model
from safetensors.torch import load_file

import kat

OPTIONS = {"precision": "float32", "device": "cpu", "batch_size": 16, "max_len": 400, "min_prompt": 32}
RATE = ("--learning_rate", "0.001")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of demo pairs with pair weights, and a tiny policy that reads their words."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("dpo")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "60"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=1000, causal=True)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.25"])
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def arguments(folder, *more):
    told = {name: value for name, value in OPTIONS.items() if f"--{name}" not in more}
    given = [part for name, value in told.items() for part in (f"--{name}", value)]
    policy = [] if "--policy" in more else ["--policy", folder / "tiny"]
    return ["train-dpo", folder / "run", *policy, *given, *more]


@pytest.fixture
def train(folder, kat_cli):
    return lambda *more: kat_cli(*arguments(folder, *more))


def log_prob(folder, pair, chosen):
    """The log-probability of a completion by Hugging Face's class and the template's text, without kat."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = pair.chosen_messages if chosen else pair.rejected_messages
    asked = tokenizer.apply_chat_template(list(pair.context), tokenize=False, add_generation_prompt=True)
    written = tokenizer.apply_chat_template([*pair.context, *turns], tokenize=False).removesuffix("\n")
    before, ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (asked, written))
    assert ids[: len(before)] == before
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(log_probs[torch.arange(len(before) - 1, len(ids) - 1), torch.tensor(ids[len(before) :])].sum())


def references(folder):
    return sorted((folder / "run" / "reference").iterdir())


@pytest.mark.parametrize("what", ["last:1", "all"])
def test_from_pairs_to_a_policy_for_everybody(folder, train, what, kat_cli):
    ran = train("--train", what, *RATE)
    assert ran.rc == 0, ran.stderr
    out = folder / "run" / "dpo"
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    pairs = dict(zip(table.pair_id, kat.read_pairs(folder / "pairs.jsonl"), strict=True))
    scores = read_jsonl(out / "validation_scores.jsonl")
    assert len(scores) > 6
    for row in scores[:4]:
        pair = pairs[row["pair_id"]]
        for side in (True, False):
            implicit = 0.1 * (log_prob(out, pair, side) - log_prob(folder / "tiny", pair, side))
            assert row["chosen" if side else "rejected"] == pytest.approx(
                implicit, abs=2e-4
            )  # a step of float32 at −800 is 6e-5
    assert max(abs(row["chosen"]) for row in scores) > 0.01

    log = read_jsonl(out / "training_log.jsonl")
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert log[0]["margin"] == pytest.approx(0, abs=1e-4)
    manifest, report = (json.loads((out / name).read_text()) for name in ("manifest.json", "training.json"))
    assert manifest["stage"] == "train-dpo"
    assert {"policy", "policy_settings", "pairs", "pair_weights"} <= set(manifest["inputs"])
    assert report["train_pairs"] == int((table.split == "train").sum()) == sum(n["pairs"] for n in log)
    accuracy = np.mean([row["chosen"] > row["rejected"] for row in scores])
    card = (out / "README.md").read_text()
    assert f"accuracy, every pair       {accuracy:.1%}" in card
    assert "by DPO (sigmoid, β 0.1)" in card
    assert "kat evaluate-rm" in ran.stdout

    assert "skip" in train("--train", what, *RATE).stdout
    assert "--overwrite" in train("--train", what, *RATE, "--beta", "0.2").failed()
    told = kat_cli("evaluate-rm", out / "validation_scores.jsonl", "--pair_weights", table_of(folder))
    assert f"{accuracy:.1%}" in told.stdout + told.stderr
    verified = kat_cli("verify", folder / "run")
    assert verified.rc == 0, verified.stdout + verified.stderr


def table_of(folder):
    return folder / "run" / "pair_weights.parquet"


def test_a_step_is_weighed_by_v(folder, train, kat_cli):
    """A policy that went one step, the reference far behind it, and a second step of all pairs: its loss is
    Σ v · ℓ of the implicit rewards that `kat score` gives, each pair with its own v."""
    told = ("--batch_size", "500", *RATE, "--schedule", "constant", "--warmup", "0")
    assert train(*told, "--epochs", "2").rc == 0
    second = read_jsonl(folder / "run" / "dpo" / "training_log.jsonl")[1]
    assert train(*told, "--max_steps", "1", "--out", folder / "one").rc == 0
    how = ("--device", "cpu", "--precision", "float32")
    assert kat_cli("score", folder / "one", folder / "run", "--out", folder / "s.jsonl", *how).rc == 0
    table = kat.read_pair_weights(table_of(folder))
    v = dict(zip(table.pair_id[table.split == "train"].tolist(), table.v[table.split == "train"].tolist(), strict=True))
    z = {row["pair_id"]: row["chosen"] - row["rejected"] for row in read_jsonl(folder / "s.jsonl")}
    losses = np.asarray([np.log1p(np.exp(-z[name])) for name in v])
    weights = np.asarray(list(v.values()))
    expected = (weights / weights.mean() * losses).mean()
    assert abs(expected - losses.mean()) > 1e-3  # it tells whose weight is whose
    assert second["weighted_loss"] == pytest.approx(expected, rel=1e-4)
    assert second["loss"] == pytest.approx(losses.mean(), rel=1e-4)


def test_a_reference_is_computed_once_for_all_arms(folder, train, monkeypatch):
    from kat.training.implicit import SequenceLogProbs

    rewards, computed = SequenceLogProbs.rewards, []

    def counted(self, row, ends):
        if not torch.is_grad_enabled():
            computed.append(len(ends))
        return rewards(self, row, ends)

    monkeypatch.setattr(SequenceLogProbs, "rewards", counted)
    assert train(*RATE).rc == 0
    [kept] = references(folder)
    first = sum(computed)
    computed.clear()
    assert train(*RATE, "--pair_weights", "uniform").rc == 0
    assert references(folder) == [kept]
    validation = sum(computed)
    assert 0 < validation < first / 2  # the validation pairs alone, by the policy as trained
    computed.clear()
    assert train(*RATE, "--out", folder / "run" / "again", "--beta", "0.3", "--loss", "ipo").rc == 0
    assert sum(computed) == validation
    array = bytearray((kept / "rewards.npy").read_bytes())
    array[-3] ^= 64
    (kept / "rewards.npy").write_bytes(array)
    computed.clear()
    assert train(*RATE, "--out", folder / "run" / "damaged").rc == 0
    assert validation < sum(computed) < first + validation  # the damaged row is computed once more
    same = [(folder / "run" / name / "model.safetensors").read_bytes() for name in ("dpo", "damaged")]
    assert same[0] == same[1]


def test_another_policy_has_another_reference(folder, train):
    assert train(*RATE).rc == 0
    assert train(*RATE, "--policy", folder / "run" / "dpo", "--out", folder / "run" / "more").rc == 0
    assert len(references(folder)) == 2
    [first, *_] = read_jsonl(folder / "run" / "more" / "training_log.jsonl")
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)


def test_only_planned_pairs_are_asked_of_the_reference(folder, train):
    told = ("--max_steps", "1", "--batch_size", "4")
    assert train(*RATE, *told).rc == 0
    [kept] = references(folder)
    few = np.count_nonzero(np.load(kept / "rewards.npy"))
    table = kat.read_pair_weights(table_of(folder))
    assert 0 < few <= 2 * (4 + int((table.split == "validation").sum())) < np.load(kept / "rewards.npy").size
    [step] = read_jsonl(folder / "run" / "dpo" / "training_log.jsonl")
    assert step["loss"] == pytest.approx(np.log(2), abs=1e-4)


def test_a_training_that_failed_midway_goes_on_and_ends_the_same(folder, train, monkeypatch):
    from kat.training.checkpoint import TrainingCheckpoint

    assert train(*RATE, "--save_every", "1", "--out", folder / "run" / "whole").rc == 0
    add = TrainingCheckpoint.add

    def stops(self, numbers):
        if numbers["step"] == 2:
            raise KeyboardInterrupt
        add(self, numbers)

    monkeypatch.setattr(TrainingCheckpoint, "add", stops)
    assert train(*RATE, "--save_every", "1", "--out", folder / "run" / "cut").rc == 130
    monkeypatch.setattr(TrainingCheckpoint, "add", add)
    ran = train(*RATE, "--save_every", "1", "--out", folder / "run" / "cut")
    assert "goes on at step 1" in ran.stderr
    for name in ("model.safetensors", "training_log.jsonl", "validation_scores.jsonl"):
        assert (folder / "run" / "cut" / name).read_bytes() == (folder / "run" / "whole" / name).read_bytes()
    assert not (folder / "run" / "cut.unfinished").exists()


def test_a_reference_that_was_stopped_goes_on(folder, train, monkeypatch):
    from kat.training.implicit import SequenceLogProbs

    assert train(*RATE, "--out", folder / "other" / "whole", "--row_tokens", "300").rc == 0
    rewards, computed = SequenceLogProbs.rewards, []

    def stops(self, row, ends):
        computed.append(1)
        if len(computed) == 4:
            raise KeyboardInterrupt
        return rewards(self, row, ends)

    monkeypatch.setattr(SequenceLogProbs, "rewards", stops)
    assert train(*RATE, "--row_tokens", "300").rc == 130
    monkeypatch.setattr(SequenceLogProbs, "rewards", rewards)
    [kept] = references(folder)
    assert (kept / "journal").read_text().count("row ") == 3
    assert train(*RATE, "--row_tokens", "300").rc == 0
    assert references(folder) == [kept]
    same = [
        (place / "model.safetensors").read_bytes() for place in (folder / "other" / "whole", folder / "run" / "dpo")
    ]
    assert same[0] == same[1]


def test_two_processes_do_what_one_does(folder):
    pytest.importorskip("accelerate")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for count in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
        own = ("--row_tokens", "300", "--out", folder / f"of{count}" / "dpo")
        command = [sys.executable, *launcher, "-m", "kat.cli", *map(str, arguments(folder, *RATE, *own))]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("train-dpo  ") == 1
    logs = [read_jsonl(folder / f"of{count}" / "dpo" / "training_log.jsonl") for count in (1, 2)]
    assert len(logs[0]) > 2
    for alone, together in zip(*logs, strict=True):
        for name in ("loss", "weighted_loss", "gradient_norm", "margin"):
            assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5), name
    one, two = (load_file(folder / f"of{count}" / "dpo" / "model.safetensors") for count in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    kept = [next((folder / f"of{count}" / "reference").iterdir()) for count in (1, 2)]
    assert kept[0].name == kept[1].name
    np.testing.assert_allclose(*(np.load(one / "rewards.npy") for one in kept), rtol=1e-5, atol=1e-4)


def test_a_step_can_be_selected(folder, train):
    assert train(*RATE, "--select", "best", "--eval_every", "1", "--epochs", "2").rc == 0
    log = read_jsonl(folder / "run" / "dpo" / "training_log.jsonl")
    losses = {one["step"]: one["selection_loss"] for one in log}
    report = json.loads((folder / "run" / "dpo" / "training.json").read_text())
    assert losses[report["training"]["best_step"]] == min(losses.values())


def test_the_policy_that_training_starts_from_is_never_written_over(folder, train):
    before = {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()}
    assert "is the input, which is never overwritten" in train("--out", folder / "tiny", "--overwrite").failed()
    assert {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()} == before


def test_grpo_goes_on_from_it(folder, train, kat_cli, monkeypatch):
    (folder / "rewards_there.py").write_text(
        "def short(prefixes, completions):\n    return [-len(c) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    assert train(*RATE).rc == 0
    told = (
        "--max_steps",
        "1",
        "--batch_size",
        "2",
        "--num_generations",
        "2",
        "--max_new_tokens",
        "6",
        "--max_len",
        "400",
    )
    still = ("--learning_rate", "0", "--precision", "float32", "--device", "cpu")
    ran = kat_cli("train-grpo", folder / "run", "--policy", "dpo", "--reward", "rewards_there:short", *told, *still)
    assert ran.rc == 0, ran.stderr
    one, two = (load_file(folder / "run" / name / "model.safetensors") for name in ("dpo", "grpo"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=0)
    message = kat_cli(
        "train-grpo", folder / "run", "--policy", "dpo.uniform", "--reward", "rewards_there:short", *told
    ).failed()
    assert "dpo.uniform" in message  # is not there


def test_what_stands_in_the_references_place_is_left_alone(folder, train):
    place = folder / "run" / "reference"
    place.write_text("mine")
    assert f"{place} is no folder" in train().failed()
    assert place.read_text() == "mine"
    place.unlink()
    assert train().rc == 0
    [kept] = references(folder)
    shutil.rmtree(kept)
    kept.write_text("mine")
    assert f"{kept} is no folder" in train("--out", folder / "run" / "more").failed()
    assert kept.read_text() == "mine"


def test_a_damaged_reference_is_computed_once_more(folder, train):
    assert train(*RATE).rc == 0
    first = (folder / "run" / "dpo" / "model.safetensors").read_bytes()
    [kept] = references(folder)

    def cut(name):
        content = (kept / name).read_bytes()
        (kept / name).write_bytes(content[: len(content) // 2])

    for number, (what, name) in enumerate(
        [
            (cut, "manifest.json"),
            (cut, "journal"),
            (cut, "rewards.npy"),
            (lambda name: np.save(kept / name, np.zeros(7)), "rewards.npy"),
        ]
    ):
        what(name)
        out = folder / "run" / f"again{number}"
        assert train(*RATE, "--out", out).rc == 0
        assert (out / "model.safetensors").read_bytes() == first, name


@pytest.mark.parametrize("place", ["reference", "reference/mine", "features"])
def test_no_policy_goes_where_everything_can_be_deleted(folder, train, place):
    out = folder / "run" / place
    assert "can be deleted" in train("--out", out, "--overwrite").failed()
    assert not out.exists()


@pytest.mark.parametrize("beta", ["nan", "inf", "0"])
def test_beta_is_a_finite_number(train, beta):
    assert f"beta is {float(beta)}; expected a number of 1e-06 or more." in train("--beta", beta).failed()


def test_a_misspelt_uniform_is_no_file(folder, kat_cli):
    ran = kat_cli(*arguments(folder, "--pair_weights", "unifrm"))
    assert ran.rc == 2
    assert "Did you mean uniform?" in ran.stderr
    assert "weigh-pairs" not in ran.stderr


def test_the_second_arm_says_how_to_compare_both(folder, train, kat_cli):
    train("--max_steps", "1")
    ran = kat_cli(*arguments(folder, "--max_steps", "1", "--pair_weights", "uniform"))
    command = ran.stdout.split("what weights did: kat ")[1].splitlines()[0]
    compared = kat_cli(*command.split())
    assert compared.rc == 0
    assert "accuracy of dpo/validation_scores.jsonl minus dpo.uniform" in compared.stdout
