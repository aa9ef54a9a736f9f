"""`kat score` of completions without a preference: one or several a prompt, as text or turns, in their order."""

import json

import pytest
from making import jsonl, read_jsonl, turn
from making_training import reward_model, tiny_chat_model

from kat.training.train import save_model

WORDS = "how do I boil an egg for seven minutes"
SIDES = {"chosen": "no", "rejected": "x"}

ROWS = [
    {"id": "several", "prompt": WORDS, "completions": ["yes, good", "no", "yes, good"]},
    {"id": "one", "prompt": [turn("user", WORDS), turn("assistant", "so"), turn("user", "why")], "completion": "no"},
    {"prompt": WORDS, "response": [turn("assistant", "yes, good")]},
    {"id": 7, "prefix": {"messages": [turn("user", WORDS)]}, "responses": [[turn("assistant", "no")], "bad"]},
]


def write_jsonl(path, rows):
    path.write_bytes(jsonl(*rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_model(reward_model(tiny_chat_model(folder / "model")), folder / "rm")
    return folder / "rm"


def test_rewards_are_those_of_pairs(model, tmp_path, kat_cli):
    write_jsonl(tmp_path / "asked.jsonl", ROWS)
    ran = kat_cli("score", model, tmp_path / "asked.jsonl", "--out", tmp_path / "r.jsonl", "--precision", "float32")
    assert ran.rc == 0, ran.stderr
    assert "7 completions of 4 prompts" in ran.stdout
    assert "evaluate-rm" not in ran.stdout
    several, one, numbered, listed = read_jsonl(tmp_path / "r.jsonl")
    assert [row["id"] for row in (several, one, numbered, listed)] == ["several", "one", "3", "7"]
    assert several["rewards"][0] == several["rewards"][2] != several["rewards"][1]
    assert numbered["reward"] == pytest.approx(several["rewards"][0], abs=1e-6)
    assert listed["rewards"][0] == pytest.approx(several["rewards"][1], abs=1e-6)
    assert several["opening_id"] == one["opening_id"]

    pairs = [
        {"id": "a", "prompt": WORDS, "chosen": "yes, good", "rejected": "no"},
        {
            "id": "b",
            "prompt": ROWS[1]["prompt"],
            "chosen": [turn("assistant", "no")],
            "rejected": [turn("assistant", "x")],
        },
    ]
    for name, pair in zip("ab", pairs, strict=True):
        write_jsonl(tmp_path / f"{name}.jsonl", [pair])
        out = tmp_path / f"{name}.scores.jsonl"
        assert kat_cli("score", model, tmp_path / f"{name}.jsonl", "--out", out, "--precision", "float32").rc == 0
    (first,), (second,) = (read_jsonl(tmp_path / f"{name}.scores.jsonl") for name in "ab")
    assert [first["chosen"], first["rejected"]] == pytest.approx(several["rewards"][:2], abs=1e-6)
    assert second["chosen"] == pytest.approx(one["reward"], abs=1e-6)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": WORDS, "completion": ""}, "an empty completion"),
        ({"prompt": WORDS, "completions": []}, "no completion"),
        ({"completion": "yes"}, "neither a prefix"),
        ({"prompt": WORDS, "completion": "yes", "image": {"bytes": "x", "path": "p"}}, "column image"),
        ({"id": "several", "prompt": WORDS, "completion": "yes"}, "an id that stood before"),
    ],
)
def test_bad_rows_are_counted_and_named(model, tmp_path, kat_cli, row, reason):
    write_jsonl(tmp_path / "asked.jsonl", [ROWS[0], row])
    told = ("score", model, tmp_path / "asked.jsonl", "--out", tmp_path / "r.jsonl", "--precision", "float32")
    ran = kat_cli(*told)
    assert ran.rc == 2
    assert reason in ran.stderr
    assert not (tmp_path / "r.jsonl").exists()
    assert kat_cli(*told, "--max_bad_rows", "1").rc == 0
    assert len(read_jsonl(tmp_path / "r.jsonl")) == 1
    [rejected] = read_jsonl(tmp_path / "r.jsonl.rejected.jsonl")
    assert reason in rejected["reason"]


def test_what_is_too_long_has_no_reward_if_told(model, tmp_path, kat_cli):
    write_jsonl(tmp_path / "asked.jsonl", [{"id": "x", "prompt": WORDS, "completions": ["no", "yes " * 400]}])
    told = ("score", model, tmp_path / "asked.jsonl", "--out", tmp_path / "r.jsonl", "--precision", "float32")
    assert "--long_completions drop" in kat_cli(*told).stderr
    ran = kat_cli(*told, "--long_completions", "drop")
    assert ran.rc == 0, ran.stderr
    [row] = read_jsonl(tmp_path / "r.jsonl")
    assert row["rewards"][1] is None
    assert isinstance(row["rewards"][0], float)
    assert json.loads((tmp_path / "r.jsonl.manifest.json").read_text())["report"]["completions"] == 1
