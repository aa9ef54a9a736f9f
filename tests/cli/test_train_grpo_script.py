"""The origin's `kat_train_grpo`: its options and names, its draw by weight, where the policy is found afterwards."""

import json

import pytest
from making import read_jsonl
from making_training import tiny_chat_model

SMALL = ("--policy", "tiny", "--precision", "float32", "--device_type", "cpu", "--max_len=300", "--min-prompt", "32")
SMALL = (*SMALL, "--max_steps", "2", "--batch_size", "3", "--num_generations", "2", "--fixed_prompts", "1")
SMALL = (*SMALL, "--generation_max_new_tokens", "5", "--generation_temperature_policy", "0.9")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base directory with pairs, prefixes, weights, and both reward models."""
    from kat.cli import main as cli

    base = tmp_path_factory.mktemp("base")
    data = base / "data"
    cli.main(["demo-data", "--out", str(data / "pairs_all.jsonl"), "--pairs", "80"])
    texts = (data / "pairs_all.jsonl").read_text().splitlines()
    model = tiny_chat_model(base / "tiny", texts=texts, vocabulary=800, causal=True)
    cli.main(["run", str(data / "pairs_all.jsonl"), "--out", str(base / "r"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(base / "r")])
    cli.main(["prefixes", str(data / "pairs_all.jsonl"), "--out", str(data / "prefixes_all.jsonl")])
    cli.main(["embed", str(data / "prefixes_all.jsonl"), "--out", str(base / "e"), "--model", model, "--device", "cpu"])
    cli.main(["density", str(base / "e"), "--out", str(data / "embeddings_offline")])
    told = ("--train", "head", "--model", model, "--device", "cpu", "--max_len", "400", "--max_steps", "1")
    for name in ("uniform", "density"):
        cli.main(["train-rm", str(base / "r"), *told, "--out", str(base / "rm_checkpoints" / name)])
    return base


@pytest.fixture
def script(made, python, monkeypatch):
    monkeypatch.setenv("KAT_BASE_DIR", str(made))
    model = str(made / "tiny")

    def run(*given):
        return python("-m", "scripts.kat_train_grpo", *(model if part == "tiny" else part for part in given))

    return run


def test_drawn_by_weight_and_uniformly(made, script, kat_cli):
    told = ("--use_precomputed_embeddings", "--rm_source=rm_density", *SMALL)
    ran = script("--grpo_source", "grpo_density", *told, "--run", "trial")
    assert ran.rc == 0, ran.stderr
    assert "tiny" in ran.stdout.splitlines()[0]  # which model is said
    out = made / "grpo_checkpoints" / "density"
    report, manifest = (json.loads((out / name).read_text()) for name in ("training.json", "manifest.json"))
    assert report["run"] == "trial"
    assert report["rewards"] == ["rm_density"]
    options = manifest["options"]
    assert (options["beta"], options["target_kl"], options["seed"]) == (0.02, 0.05, 1337)
    assert (options["max_new_tokens"], options["temperature"]) == (5, 0.9)
    assert report["fixed_train"]
    log = read_jsonl(out / "training_log.jsonl")
    assert all(0 <= one["beta"] < 0.03 for one in log)
    assert set(report["training"]["by_bin"]["drawn"]) - {"-1"}

    uniform = script("--grpo_source", "grpo", "--rm_source", "rm", *SMALL)
    assert uniform.rc == 0, uniform.stderr
    report = json.loads((made / "grpo_checkpoints" / "uniform" / "training.json").read_text())
    assert report["drawn"] == "uniform"
    assert set(report["training"]["by_bin"]["drawn"]) == {"-1"}  # no density was read

    listed = kat_cli("models")
    assert "grpo_density" in listed.stdout


def test_an_opening_without_a_weight_is_named(made, script, tmp_path):
    other = tmp_path / "other.jsonl"
    lines = (made / "data" / "pairs_all.jsonl").read_text().splitlines()
    asked = [{"role": "user", "content": "A question that nobody asked before?"}]
    row = json.loads(lines[0]) | {"id": "new", "prefix": {"messages": asked}}
    other.write_text("\n".join([*lines, json.dumps(row)]) + "\n")
    told = ("--rm_source", "rm", "--grpo_source", "grpo_density", "--use_precomputed_embeddings", "--overwrite", *SMALL)
    refused = script(*told, "--pairs_path", str(other))
    assert refused.rc == 2
    assert "has no weight in" in refused.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--rm_source", "rm"), "grpo-source"),
        (("--rm_source", "best", "--grpo_source", "grpo"), "best"),
        (("--rm_source", "rm", "--grpo_source", "grpo_density", "--embeddings_dir", "x"), "use_precomputed_embeddings"),
        (("--rm_source", "rm", "--grpo_source", "grpo", "--max_new_tokens", "500"), "max_new_tokens"),
    ],
)
def test_what_is_refused_says_why(script, given, message):
    ran = script(*given)
    assert ran.rc == 2
    assert message in ran.stderr.replace("--grpo_source", "grpo-source")


def test_bad_rows_are_counted_and_named(made, script, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text((made / "data" / "pairs_all.jsonl").read_text() + "{}\n")
    told = ("--rm_source", "rm", "--grpo_source", "grpo", "--overwrite", *SMALL, "--max_bad_rows", "1")
    ran = script(*told, "--pairs_path", str(other))
    assert ran.rc == 0, ran.stderr
    report = json.loads((made / "grpo_checkpoints" / "uniform" / "training.json").read_text())
    [(reason, places)] = report["bad_rows"].items()
    assert places == f"1, first at {other}:{len(other.read_text().splitlines())}"
    assert f"bad rows passed over       {reason}: {places}" in ran.stdout
