"""`kat evaluate-policy`: wins under a reward, and KL from the reference, are those of what both policies say."""

import importlib
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from making import read_jsonl
from making_training import tiny_chat_model

from kat.artifacts import read_manifest
from kat.stages.evaluate_policy import prompt_limit
from kat.stages.reward_inputs import function_file
from kat.stages.run_prompts import held_out
from kat.training.prompt_sampler import Asked
from kat.training.reward_sources import reward_of
from kat.training.train import load_reward_model
from kat.training_config import DpoOptions, trained_limits

TOLD = ("--device", "cpu", "--precision", "float32", "--max_new_tokens", "12")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with pair weights, a policy that DPO moved far, and rewards that are functions."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("answers")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "60"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=800, causal=True)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.3"])
    how = ["--max_len", "400", "--min_prompt", "32", "--learning_rate", "0.01", "--batch_size", "8"]
    cli.main(["train-dpo", str(folder / "run"), "--policy", model, "--device", "cpu", "--precision", "float32", *how])
    (folder / "short_reward.py").write_text(
        "def short(prefixes, completions):\n    return [-float(len(c)) for c in completions]\n"
        "def same(prefixes, completions):\n    return [1.0] * len(completions)\n"
    )
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.syspath_prepend(str(copy))
    return copy


@pytest.fixture
def measure(folder, kat_cli):
    def run(*more, policy=None, reward="short_reward:short"):
        few = () if "--prompts" in more else ("--prompts", "3")
        told = () if "--max_len" in more else ("--max_len", "400")
        return kat_cli(
            "evaluate-policy",
            policy or folder / "run" / "dpo",
            folder / "run",
            *("--reward", reward, *TOLD, *told, *few, *more),
        )

    return run


def facts_of(folder, name="dpo.policy"):
    out = folder / "run" / name
    return json.loads((out / "policy.json").read_text()), read_jsonl(out / "completions.jsonl"), out


def test_wins_and_kl_are_those_of_the_completions(folder, measure, kat_cli):
    ran = measure()
    assert ran.rc == 0, ran.stderr
    facts, rows, out = facts_of(folder)
    assert len(rows) == facts["all"]["prompts"] > 8
    assert {row["bin"] for row in rows} == {int(b) for b in facts["bins"]}
    assert all(row[name]["reward"] == -len(row[name]["completion"]) for row in rows for name in ("policy", "reference"))
    gains = np.asarray([row["policy"]["reward"] - row["reference"]["reward"] for row in rows])
    assert facts["all"]["win_rate"]["value"] == pytest.approx(np.mean((gains > 0) + 0.5 * (gains == 0)))
    assert facts["all"]["reward_gain"]["value"] == pytest.approx(gains.mean())
    low, high = facts["all"]["win_rate"]["interval"]
    assert low <= facts["all"]["win_rate"]["value"] <= high
    for b, part in facts["bins"].items():
        own = [row for row in rows if row["bin"] == int(b)]
        assert part["prompts"] == len(own)
        assert part["kl"]["value"] == pytest.approx(np.mean([row["kl"] for row in own]), rel=1e-6)
    assert f"{facts['all']['win_rate']['value']:.1%}" in ran.stdout
    assert "skip" in measure().stdout

    told = kat_cli("evaluate-rm", out / "wins.jsonl", "--replicates", "50")
    assert told.rc == 0, told.stderr
    assert f"{facts['all']['win_rate']['value']:.1%}" in told.stdout + told.stderr
    assert kat_cli("verify", folder / "run").rc == 0


def test_prompts_are_as_long_as_in_the_training(folder, kat_cli):
    def recorded(policy, *more):
        few = ("--prompts", "1", "--max_new_tokens", "4", "--device", "cpu", *more)
        ran = kat_cli("evaluate-policy", policy, folder / "run", "--reward", "short_reward:short", *few)
        assert ran.rc == 0, ran.stderr
        return json.loads((folder / "run" / f"{policy.name}.policy" / "manifest.json").read_text())["options"]

    assert recorded(folder / "run" / "dpo")["max_len"] == 400
    assert recorded(folder / "tiny", "--against", folder / "tiny")["max_len"] == 512
    assert recorded(folder / "run" / "dpo", "--max_len", "300", "--overwrite")["max_len"] == 300


def test_prompts_that_lose_their_beginning_are_counted(folder, measure, kat_cli):
    ran = measure("--prompts", "1")
    facts, rows, _ = facts_of(folder)
    assert facts["prompts_cut"] == 0
    assert "cut at their start" not in ran.stdout

    ran = measure("--prompts", "1", "--max_len", "16", "--overwrite")
    facts, rows, _ = facts_of(folder)
    assert facts["prompts_cut"] == len(rows)  # with their template none of them fits into four tokens
    assert f"prompts cut at their start {len(rows):,}\n" in ran.stdout
    assert f"prompts cut at their start {len(rows):,}\n" in kat_cli("show", folder / "run" / "dpo.policy").stdout


def test_tools_that_are_not_written_are_counted(folder, measure, monkeypatch):
    from kat.training import train_grpo

    tokens_of = train_grpo.prompts_of_policy
    monkeypatch.setattr(train_grpo, "prompts_of_policy", lambda *told: replace(tokens_of(*told), tools_unread=2))
    ran = measure("--prompts", "1")
    assert facts_of(folder)[0]["prompts_whose_tools_are_not_written"] == 2
    assert "does not write the tools of 2 prompts\n" in ran.stdout


@pytest.mark.parametrize(("stage", "least"), [("train-grpo", 1), ("train-rm", 0)])
def test_a_policys_prompts_keep_a_token(tmp_path, stage, least):
    manifest = {"stage": stage, "kat_version": "1", "inputs": {}, "options": {"max_len": 300, "min_prompt": 0}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert trained_limits(tmp_path) == {"max_len": 300, "min_prompt": least}
    if least:
        DpoOptions(**trained_limits(tmp_path))  # as `kat score --reference` reads it


@pytest.mark.parametrize(
    ("stage", "limits"),
    [("train-grpo", (300, 40)), ("train-dpo", (300, 40)), ("train-rm", (300, 40)), ("embed", (512, 128))],
)
def test_limits_are_those_of_trainings(tmp_path, stage, limits):
    options = {"max_len": 300, "min_prompt": 40}
    manifest = {"stage": stage, "kat_version": "1", "inputs": {}, "options": options}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path)
    assert tuple(trained_limits(tmp_path).values()) == limits


@pytest.mark.parametrize(
    ("stage", "trained", "told", "limit"),
    [
        ("train-grpo", {"max_len": 160, "max_new_tokens": 32}, 128, 256),  # prompts of 128 tokens, as in the training
        ("train-grpo", {"max_len": 512, "max_new_tokens": 256}, 128, 384),
        ("train-dpo", {"max_len": 400}, 128, 400),
        ("train-dpo", {"max_len": 100}, 128, 168),  # a prompt has min_prompt tokens, as in the training
        ("embed", {"max_len": 100}, 128, 512),
    ],
)
def test_prompts_have_what_the_training_left_them(tmp_path, stage, trained, told, limit):
    manifest = {"stage": stage, "kat_version": "1", "inputs": {}, "options": trained | {"min_prompt": 40}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert prompt_limit(tmp_path, told) == limit


def test_the_report_shows_it(folder, measure, kat_cli):
    from kat.reports import forms

    assert measure().rc == 0
    facts, *_ = facts_of(folder)
    assert forms.first_fault(facts, forms.POLICY_EVALUATION) is None
    assert kat_cli("report", folder / "run").rc == 0
    page = (folder / "run" / "report.html").read_text()
    assert "Policies against their references" in page
    assert "dpo.policy" in page
    facts["all"]["win_rate"]["value"] = 1.5
    assert "win_rate" in forms.first_fault(facts, forms.POLICY_EVALUATION)


def test_kl_is_that_of_hugging_faces_models(folder, measure):
    """k3 of each drawn token, by the classes themselves: the completions are told as texts, so read their tokens."""
    from kat.training import answers

    kept = {}
    divergence = answers.divergence

    def seen(policy, reference, trunks, said, **told):
        kept.update(trunks=trunks, said=said)
        return divergence(policy, reference, trunks, said, **told)

    answers.divergence = seen
    try:
        assert measure("--temperature", "0.8").rc == 0
    finally:
        answers.divergence = divergence
    _, rows, _ = facts_of(folder)
    plain = [transformers.AutoModelForCausalLM.from_pretrained(p) for p in (folder / "run" / "dpo", folder / "tiny")]
    for trunk, one, row in list(zip(kept["trunks"], kept["said"], rows, strict=True))[:4]:
        ids = torch.from_numpy(np.concatenate([trunk, one.tokens]).astype(np.int64))[None]
        at = torch.arange(len(trunk) - 1, ids.shape[1] - 1)
        with torch.no_grad():
            now, then = ((m(input_ids=ids).logits[0] / 0.8).log_softmax(-1)[at, ids[0, len(trunk) :]] for m in plain)
        d = now - then
        assert row["kl"] == pytest.approx(float(((-d).exp() - 1 + d).mean()), rel=1e-3, abs=1e-6)
    assert max(row["kl"] for row in rows) > 1e-3


def test_a_policy_against_itself_wins_half(folder, measure):
    assert measure("--against", folder / "run" / "dpo").rc == 0
    facts, rows, _ = facts_of(folder)
    assert all(row["policy"] == row["reference"] and row["kl"] == 0 for row in rows)
    assert facts["all"]["win_rate"]["value"] == 0.5
    assert measure("--overwrite", reward="short_reward:same").rc == 0
    assert facts_of(folder)[0]["all"]["win_rate"]["value"] == 0.5


def test_two_policies_are_compared_by_their_wins(folder, measure, kat_cli):
    """The difference is that of the win rates, on the same prompts: a policy against one that never wins nor loses."""
    assert measure().rc == 0
    facts, _, out = facts_of(folder)
    reference = folder / "run" / "reference.policy"
    args = ("--against", folder / "tiny", "--out", reference)
    assert measure(*args, policy=folder / "tiny").rc == 0
    same = facts_of(folder, "reference.policy")[0]
    assert same["all"]["win_rate"]["value"] == 0.5
    ran = kat_cli("evaluate-rm", out / "wins.jsonl", reference / "wins.jsonl", "--replicates", "50", "--json")
    assert ran.rc == 0, ran.stderr
    told = json.loads(ran.stdout)["outputs"][0]["reports"]["evaluation.json"]
    difference = told["comparison"]["all"]["unweighted"]["accuracy"]["difference"]
    assert difference == pytest.approx(facts["all"]["win_rate"]["value"] - 0.5)


def test_what_is_not_known_says_what_to_type(folder, measure):
    assert "--against" in measure(policy=folder / "tiny").failed()
    assert measure("--against", folder / "run" / "dpo", policy=folder / "tiny").rc == 0
    assert facts_of(folder, "tiny.policy")[0]["reference"].endswith("dpo")
    shutil.move(folder / "tiny", folder / "elsewhere")
    assert "--against" in measure("--overwrite").failed()
    (folder / "run" / "pair_weights.parquet").unlink()
    assert "kat weigh-pairs" in measure("--overwrite").failed()


def test_only_prompts_that_validate_are_asked(folder, measure):
    import kat

    assert measure("--prompts", "100").rc == 0
    _, rows, _ = facts_of(folder)
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    validates = set(table.opening_id[table.split == "validation"])
    assert {row["opening_id"] for row in rows} == validates
    assert len(rows) == len({row["opening_id"] for row in rows})


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("raise ValueError('one\\ntwo')", "bad_reward.py:2: one."),
        ("raise SystemExit(0)", "SystemExit"),
        ("return ['a'] * len(completions)", "could not convert"),
        ("return [float('nan')] * len(completions)", "is nan"),
        ("return [1.0]", "expected one for each"),
    ],
)
def test_a_reward_that_fails_is_told_in_a_line(folder, measure, function, told):
    (folder / "bad_reward.py").write_text(f"def bad(prefixes, completions):\n    {function}\n")
    sys.modules.pop("bad_reward", None)
    importlib.invalidate_caches()
    message = measure(reward="bad_reward:bad").failed()
    assert told in message
    assert "bad_reward:bad" in message
    assert len(message.splitlines()) == 1
    assert not (folder / "run" / "dpo.policy").exists()


def test_a_reward_function_that_changed_is_another_input(folder, measure):
    (folder / "turning.py").write_text(
        "def reward(prefixes, completions):\n    return [float(len(c)) for c in completions]\n"
    )
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("raise SystemExit('nobody runs this to hash what lies in it')\n")
    (folder / "parts" / "inside.py").write_text("reward = None\n")
    assert measure(reward="turning:reward").rc == 0
    first, _, out = facts_of(folder)
    assert "reward_0" in json.loads((out / "manifest.json").read_text())["inputs"]
    assert "skip" in measure(reward="turning:reward").stdout
    (folder / "turning.py").write_text(
        "def reward(prefixes, completions):\n    return [-len(c) - 0.5 for c in completions]\n"
    )
    assert "--overwrite" in measure(reward="turning:reward").failed()
    sys.modules.pop("turning")
    assert measure("--overwrite", reward="turning:reward").rc == 0
    assert facts_of(folder)[0] != first
    assert function_file("parts.inside:reward") == folder / "parts" / "inside.py"
    assert function_file("parts:reward") == folder / "parts" / "__init__.py"
    assert [function_file(f"{name}:f") for name in ("nowhere", "parts.nowhere", "sys", "turning.f")] == [None] * 4


def test_rewards_are_computed_as_precisely_as_told(tmp_path, monkeypatch):
    model = tiny_chat_model(tmp_path / "rm")
    monkeypatch.setattr("kat.training.train.multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr("kat.training.reward_sources.model_that_rewards", load_without_asking)
    autocast = {p: reward_of([model], None, "cpu", precision=p)._sources[0]._model.autocast for p in PRECISIONS}
    assert autocast == {"auto": True, "float32": False, "bfloat16": True}


def test_a_reward_model_says_once_that_prompts_lose_their_beginning(tmp_path, monkeypatch, capsys):
    model = tiny_chat_model(tmp_path / "rm")
    monkeypatch.setattr("kat.training.reward_sources.model_that_rewards", load_without_asking)
    reward = reward_of([model], None, "cpu")
    short, long = (Asked([{"role": "user", "content": text}], "o", "c") for text in ("w1", "w1 " * 600))
    reward([short], ["w2"])
    assert "lost" not in capsys.readouterr().err
    reward([short, long], ["w2", "w3"])
    reward([long], ["w2"])
    told = capsys.readouterr().err
    assert told.count("lost their beginning") == 1
    assert "1 of 2 prompts lost their beginning: with a completion 512 tokens are read" in " ".join(told.split())


PRECISIONS = ("auto", "float32", "bfloat16")


def load_without_asking(options, device, remedy):
    return load_reward_model(options, device)


def test_a_reward_that_cannot_be_read_is_told_in_a_line(folder, measure):
    (folder / "unread.py").write_text("def x(:\n")
    assert "unread:x cannot be read" in measure(reward="unread:x").failed()
    (folder / "raises.py").write_text("\nraise RuntimeError('no')\n")
    assert "raises.py:2: no." in measure(reward="raises:x").failed()


def test_a_policy_is_no_reward(folder, measure):
    """Its head would be drawn at random."""
    assert "no reward head" in measure(reward=folder / "tiny").failed()
    assert "finite" in measure("--reward_weights", "nan").failed()


def test_what_trains_too_is_not_held_out():
    one, other = (Asked([{"role": "user", "content": text}], text, text, 0, None) for text in "ab")
    assert held_out({"train": {"a": one}, "validation": {"a": one, "b": other}}) == [other]
