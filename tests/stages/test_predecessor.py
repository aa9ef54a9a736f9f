"""Manifests of version 1: outputs of the version before still verify, and the commands that made them still skip.

`predecessor/` keeps one real manifest of each stage, as that version wrote it.
"""

import json
import shutil
from pathlib import Path

import pytest

from kat.artifacts import manifest_path, read_manifest

KEPT = sorted((Path(__file__).parent / "predecessor").glob("*.json"))
FORMER = {"weigh-pairs": "pair-weights", "export-weights": "export", "export": "model", "evaluate-rm": "evaluation"}


@pytest.fixture(scope="module")
def made(demo_run, tmp_path_factory):
    """A folder with an output of every stage, and the commands that made them."""
    from kat.cli.main import main

    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(demo_run, folder, dirs_exist_ok=True)
    run, scores = folder / "run", folder / "scores.jsonl"
    rows = [json.dumps({"pair_id": str(i), "chosen": 1.0 + i % 3, "rejected": 1.5}) for i in range(50)]
    scores.write_text("\n".join(rows))
    commands = {
        "demo-data": ["demo-data", "--out", folder / "pairs.jsonl", "--pairs", 600],
        "prefixes": ["prefixes", folder / "pairs.jsonl", "--out", folder / "p.jsonl"],
        "embed": ["embed", run / "prefixes_all.jsonl", "--out", run / "embeddings", "--device", "cpu"],
        "embed-file": ["embed", run / "prefixes_all.jsonl", "--out", folder / "e.pt", "--device", "cpu"],
        "density": ["density", run / "embeddings", "--out", run / "density", "--device", "cpu"],
        "sample": ["sample", run / "density", "--budget", 5, "--out", folder / "s.txt"],
        "weigh-pairs": ["weigh-pairs", run, "--group_cosine", 0.95],  # the default then
        "export-weights": ["export-weights", run, "--to", "trl", "--out", folder / "trl"],
        "export": ["export", "minilm", folder / "minilm"],
        "evaluate-rm": ["evaluate-rm", scores, "--out", folder / "evaluation"],
    }
    outputs = {
        "demo-data": folder / "pairs.jsonl",
        "prefixes": folder / "p.jsonl",
        "embed": run / "embeddings",
        "embed-file": folder / "e.pt",
        "density": run / "density",
        "neighbors": run / "density" / "neighbors",
        "sample": folder / "s.txt",
        "weigh-pairs": run / "pair_weights.parquet",
        "export-weights": folder / "trl",
        "export": folder / "minilm",
        "evaluate-rm": folder / "evaluation",
    }
    for command in commands.values():
        main(list(map(str, command)))
    for output in outputs.values():
        make_former(output)
    return commands, outputs


def make_former(output):
    """Rewrite a manifest as version 1 wrote it."""
    value = json.loads(manifest_path(output).read_bytes())
    assert value.pop("manifest_version") == 3
    del value["manifest_sha256"]
    for later in ("inputs_at", "beside"):
        value.pop(later, None)
    value["stage"] = FORMER.get(value["stage"], value["stage"])
    manifest_path(output).write_text(json.dumps(value))


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)
def test_the_kept_manifests_are_understood(kept, made, tmp_path):
    """A real one says the same as one of today in its form: the same keys, options and inputs."""
    value = json.loads(kept.read_bytes())
    (tmp_path / "manifest.json").write_bytes(kept.read_bytes())
    read = read_manifest(tmp_path)
    assert read["stage"] == kept.stem.removesuffix("-file")
    assert {k: v for k, v in read.items() if k != "stage"} == {k: v for k, v in value.items() if k != "stage"}
    today = json.loads(manifest_path(made[1][kept.stem]).read_bytes())
    assert today["stage"] == value["stage"]
    assert list(today) == list(value)  # `make_former` has changed it already
    # Weights are blended unless told otherwise: see below.
    assert [name for name in today["options"] if name != "blend"] == [
        name for name in value["options"] if name != "processes"
    ]
    assert list(today["inputs"]) == list(value["inputs"]) or kept.stem == "evaluate-rm"


@pytest.mark.parametrize("name", ["demo-data", "prefixes", "embed", "embed-file", "density", "sample", "weigh-pairs"])
def test_the_same_command_skips(name, made, kat_cli):
    ran = kat_cli(*made[0][name])
    assert ran.rc == 0, ran.stderr
    assert f"{name.removesuffix('-file'):<14} skipped: {made[1][name]}" in ran.stdout


def test_weights_of_density_alone_are_those_of_before(made, kat_cli):
    """The options that came later are no part of a manifest of weights as they were made before there were any."""
    command, output = made[0]["weigh-pairs"], made[1]["weigh-pairs"]
    path = manifest_path(output)
    kept = json.loads(path.read_bytes())
    try:
        old = json.loads(json.dumps(kept))
        del old["options"]["blend"]
        old["options"]["multiplicity"] = "sqrt"
        path.write_text(json.dumps(old))
        ran = kat_cli(*command, "--blend", 1, "--multiplicity", "sqrt", "--smooth", "none")
        assert ran.rc == 0, ran.stderr
        assert "skipped" in ran.stdout
        assert "was made with blend = None, not 0.25" in kat_cli(*command).stderr
    finally:
        path.write_text(json.dumps(kept))


@pytest.mark.parametrize("name", ["export-weights", "export", "evaluate-rm"])
def test_renamed_stages_skip(name, made, kat_cli):
    ran = kat_cli(*made[0][name])
    assert ran.rc == 0, ran.stderr
    assert f"{name:<14} skipped: {made[1][name]}" in ran.stdout


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)
def test_outputs_verify(kept, made, kat_cli):
    ran = kat_cli("verify", made[1][kept.stem])
    assert ran.rc == 0, ran.stderr
    assert ran.stdout.endswith("whole\n")


def test_the_run_verifies(made, kat_cli):
    assert kat_cli("verify", made[1]["density"].parent).rc == 0
