"""The origin's `kat_train_rm`: its options, its split, its weights by id, and where the model is found afterwards."""

import hashlib
import json

import numpy as np
import pytest
from making import read_jsonl
from making_training import tiny_chat_model

import kat
from kat.pair_weights.origin import origin_weights, validates

BASE = ("--model", "tiny", "--precision", "float32", "--device_type", "cpu", "--train", "head", "--max_len", "400")
MORE = ("--min_prompt", "32", "--batch_size", "16", "--max_steps", "6")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from kat.cli import main as cli

    base = tmp_path_factory.mktemp("base")
    data = base / "data"
    cli.main(["demo-data", "--out", str(data / "pairs_all.jsonl"), "--pairs", "80"])
    texts = (data / "pairs_all.jsonl").read_text().splitlines()
    model = tiny_chat_model(base / "tiny", texts=texts, vocabulary=800)
    cli.main(["prefixes", str(data / "pairs_all.jsonl"), "--out", str(data / "prefixes_all.jsonl")])
    embedded = [
        "embed",
        str(data / "prefixes_all.jsonl"),
        "--out",
        str(base / "e"),
        "--model",
        model,
        "--device",
        "cpu",
    ]
    cli.main(embedded)
    cli.main(["density", str(base / "e"), "--out", str(data / "embeddings_offline")])
    return base


@pytest.fixture
def script(made, python, monkeypatch):
    monkeypatch.setenv("KAT_BASE_DIR", str(made))
    model = str(made / "tiny")

    def run(*given, cwd=None):
        return python("-m", "scripts.kat_train_rm", *(model if part == "tiny" else part for part in given))

    return run


def test_the_rule_of_the_split_is_the_origins():
    """md5 of "id_seed" as a hexadecimal number, modulo a million in whole numbers, against the share of it."""
    for name in ("a", "5d41402abc4b2a76", "é"):
        for seed in (123, 7):
            number = int(hashlib.md5(f"{name}_{seed}".encode()).hexdigest(), 16) % 10**6
            for ratio in (0.0, 0.05, 0.5, 1.0):
                assert validates(name, ratio, seed) == (number < ratio * 1e6)
    ids = [f"{i:016x}" for i in range(20_000)]
    share = np.mean([validates(i, 0.05, 123) for i in ids])
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / len(ids)) ** 0.5


def test_modes_of_weights():
    w = np.asarray([0.1, 1.0, 2.0, 50.0])
    capped = origin_weights(w, "mean", 2.0)
    assert capped.mean() == pytest.approx(1)
    assert capped.max() <= 2 + 1e-9
    assert np.all(np.diff(capped) >= 0)  # rare weighs more, in the same order
    assert np.array_equal(origin_weights(w, "sum", 2.0), capped)
    assert np.allclose(origin_weights(7 * w, "mean", 2.0), capped)
    assert np.array_equal(origin_weights(w, "none", 2.0), [0.1, 1, 2, 2])
    with pytest.raises(kat.KatError, match="weight_mode"):
        origin_weights(w, "max", 2.0)


def test_weighted_and_uniform_without_embeddings(made, script, kat_cli):
    for name in ("embeddings.npy", "log_density.npy"):
        (made / "data" / "embeddings_offline" / name).unlink(missing_ok=True)
    dense = script("--rm-source=rm_density", *BASE, *MORE, "--val-ratio", "0.2", "--run", "trial")
    assert dense.rc == 0, dense.stderr
    assert "tiny" in dense.stdout.splitlines()[0]  # which model is said
    out = made / "rm_checkpoints" / "density"
    report, manifest = (json.loads((out / n).read_text()) for n in ("training.json", "manifest.json"))
    assert report["run"] == "trial"
    assert manifest["options"]["rm_source"] == "rm_density"
    w = kat.load_density_mapping(
        made / "data" / "prefixes_all.jsonl", made / "data" / "embeddings_offline" / "density_weights.npy"
    )
    pairs = list(kat.read_pairs(made / "data" / "pairs_all.jsonl"))
    sides = [validates(pair.prefix.id, 0.2, 123) for pair in pairs]
    scores = read_jsonl(out / "validation_scores.jsonl")
    assert [row["pair_id"] for row in scores] == [p.id for p, side in zip(pairs, sides, strict=True) if side]
    v = origin_weights(
        np.asarray([w[p.prefix.id] for p, side in zip(pairs, sides, strict=True) if not side]), "mean", 10
    )
    assert report["ess_pairs"] == pytest.approx(v.sum() ** 2 / (v**2).sum(), rel=1e-6)

    uniform = script("--rm_source", "rm", *BASE, *MORE, "--val_ratio=0.2")
    assert uniform.rc == 0, uniform.stderr
    report = json.loads((made / "rm_checkpoints" / "uniform" / "training.json").read_text())
    assert report["ess_pairs"] == report["train_pairs"]

    listed = kat_cli("models")
    assert "rm_density" in listed.stdout
    embedded = kat_cli(
        "embed", made / "data" / "prefixes_all.jsonl", "--out", made / "again", "--ckpt_source", "rm_density"
    )
    assert embedded.rc == 0, embedded.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--likert_token", "x"), "means nothing here"),
        (("--weight_mode", "max"), "weight"),
        (("--val_ratio", "1.5"), "val_ratio is 1.5"),
    ],
)
def test_what_is_refused_says_why(script, given, message):
    ran = script("--rm_source", "rm", *given)
    assert ran.rc == 2
    assert message in ran.stderr


def test_a_pair_without_a_weight_is_an_error_or_one(made, script, tmp_path):
    other = tmp_path / "other.jsonl"
    lines = (made / "data" / "pairs_all.jsonl").read_text().splitlines()
    asked = [{"role": "user", "content": "A question that nobody asked before?"}]
    row = json.loads(lines[0]) | {"id": "new", "prefix": {"messages": asked}}
    other.write_text("\n".join([*lines, json.dumps(row)]) + "\n")
    told = ("--rm_source", "rm_density", "--pairs_path", str(other), *BASE, *MORE, "--overwrite")
    refused = script(*told)
    assert refused.rc == 2
    assert "has no weight in" in refused.stderr
    assert "--missing_weight one" in refused.stderr
    allowed = script(*told, "--missing_weight", "one")
    assert allowed.rc == 0, allowed.stderr
    assert "pairs without a weight     1, of weight 1" in allowed.stdout


def test_weights_of_contexts_are_refused(made, script, tmp_path, kat_cli):
    prefixes = tmp_path / "contexts.jsonl"
    assert kat_cli("prefixes", made / "data" / "pairs_all.jsonl", "--out", prefixes, "--unit", "context").rc == 0
    ran = script("--rm_source", "rm_density", "--prompts_path", str(prefixes), *BASE)
    assert ran.rc == 2
    assert "--unit context" in ran.stderr


def test_bad_rows_are_counted_and_named(made, script, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text((made / "data" / "pairs_all.jsonl").read_text() + "{}\n")
    told = ("--rm_source", "rm", "--pairs_path", str(other), *BASE, *MORE, "--overwrite")
    message = script(*told).failed()
    assert "step over them with --max_bad_rows all" in message
    assert "rejected.jsonl" not in message  # the origin's command sets nothing aside
    ran = script(*told, "--max_bad_rows", "1")
    assert ran.rc == 0, ran.stderr
    [(reason, places)] = json.loads((made / "rm_checkpoints" / "uniform" / "training.json").read_text())[
        "bad_rows"
    ].items()
    assert places == f"1, first at {other}:{len(other.read_text().splitlines())}"
    assert f"bad rows passed over       {reason}: {places}" in ran.stdout
