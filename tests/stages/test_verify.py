"""`kat verify` proves that a folder is whole: every way of breaking one is found, the first wrong row by its number."""

import json
import shutil

import numpy as np
import pytest
import torch
from making import jsonl, md5_id, vouch, write

from kat.artifacts import MANIFEST, manifest, manifest_path, write_folder_manifest

N, D = 12, 5


@pytest.fixture
def prompts(tmp_path):
    rows = [{"id": md5_id(f"q{i}"), "prefix": {"messages": [{"role": "user", "content": f"q{i}"}]}} for i in range(N)]
    return write(tmp_path / "prefixes_all.jsonl", jsonl(*rows))


@pytest.fixture
def folder(tmp_path, prompts):
    """A folder of weights as the contract describes it, made without the code that makes such folders."""
    folder = tmp_path / "density"
    folder.mkdir()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, D))
    save(folder, "embeddings", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    values = rng.uniform(0.5, 2, N)
    save(folder, "density_weights", (values / values.mean()).astype(np.float32))
    (folder / "ids.json").write_text(json.dumps([md5_id(f"q{i}") for i in range(N)]))
    (folder / "embeddings_metadata.json").write_text(json.dumps({"n_items": N}))
    return finalised(folder)


def save(folder, name, array):
    np.save(folder / f"{name}.npy", array)


def finalised(folder):
    """Give a folder a manifest that vouches for its files as they are."""
    write_folder_manifest(folder, manifest("density", {"embeddings": "0"}, {}), items_path="../prefixes_all.jsonl")
    return folder


def edit(folder, name, change):
    path = folder / f"{name}.npy"
    array = np.load(path)
    save(folder, name, change(array))


def at(row, value):
    def change(array):
        array[row] = value
        return array

    return change


def test_a_whole_folder(kat_cli, folder, prompts):
    ran = kat_cli("verify", folder)
    assert (ran.rc, ran.stderr) == (0, "")
    assert "whole" in ran.stdout
    assert kat_cli("verify", folder, "--prompts_path", prompts).rc == 0


ROWS = {
    "a NaN weight": ("density_weights", at(3, np.nan), "row 3"),
    "an infinite weight": ("density_weights", at(4, np.inf), "row 4"),
    "a zero weight": ("density_weights", at(0, 0), "row 0"),
    "a negative weight": ("density_weights", at(11, -1), "row 11"),
    "the first of two": ("density_weights", at([9, 6], np.nan), "row 6"),
    "another mean": ("density_weights", lambda a: a * np.float32(1.01), "mean"),
    "weights of another type": ("density_weights", lambda a: a.astype(np.float64), "float64"),
    "a weight too few": ("density_weights", lambda a: a[:-1], "shape"),
    "weights in a table": ("density_weights", lambda a: a[:, None], "shape"),
    "a long embedding": ("embeddings", at(7, 1), "row 7"),
    "a NaN embedding": ("embeddings", at((2, 1), np.nan), "row 2"),
    "a zero embedding": ("embeddings", at(5, 0), "row 5"),
    "embeddings of another type": ("embeddings", lambda a: a.astype(np.float16), "float16"),
    "an embedding too many": ("embeddings", lambda a: np.concatenate([a, a[:1]]), "shape"),
}


@pytest.mark.parametrize("vouched", [False, True], ids=["damaged", "vouched for"])
@pytest.mark.parametrize("name", ROWS)
def test_wrong_rows(kat_cli, folder, name, vouched):
    """Named by row even if a manifest vouches for the wrong bytes."""
    array, change, word = ROWS[name]
    edit(folder, array, change)
    if vouched:
        finalised(folder)
    message = kat_cli("verify", folder).failed(1)
    assert word in message
    if "row" in word:
        assert md5_id(f"q{word.split()[1]}") in message


def test_ids_in_another_order(kat_cli, folder):
    ids = [md5_id(f"q{i}") for i in range(N)]
    ids[4], ids[8] = ids[8], ids[4]
    (folder / "ids.json").write_text(json.dumps(ids))
    message = kat_cli("verify", finalised(folder)).failed(1)
    assert "4" in message
    assert ids[4] in message


@pytest.mark.parametrize("ids", [["x"] * N, [md5_id(f"q{i}") for i in range(N - 1)], list(range(N)), {}], ids=str)
def test_ids_repeated_too_few_or_no_text(kat_cli, folder, ids):
    (folder / "ids.json").write_text(json.dumps(ids))
    kat_cli("verify", finalised(folder)).failed(1)


def test_prompts_that_changed_or_went(kat_cli, folder, prompts):
    lines = prompts.read_bytes().splitlines(keepends=True)
    prompts.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert md5_id("q3") in kat_cli("verify", folder).failed(1)
    prompts.unlink()
    ran = kat_cli("verify", folder)
    assert ran.rc == 0, "what was deleted is no damage"
    assert f"{prompts.name}, which was embedded, is not there now" in ran.stdout
    assert "--prompts_path" in ran.stdout


@pytest.mark.parametrize("name", ["embeddings_metadata.json", "density_weights.npy", "embeddings.npy", "ids.json"])
def test_a_file_gone_or_damaged(kat_cli, folder, name):
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert name in kat_cli("verify", folder).failed(1)
    path.unlink()
    assert name in kat_cli("verify", folder).failed(1)


def test_an_unfinished_folder(kat_cli, folder):
    (folder / MANIFEST).unlink()
    assert "manifest" in kat_cli("verify", folder).failed(1)


def test_no_such_folder(kat_cli, tmp_path, prompts):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text('{"stage": "other"}')
    for path in (tmp_path / "none", prompts, tmp_path / "empty", tmp_path / "other"):
        kat_cli("verify", path).failed(2)


@pytest.mark.parametrize("outputs", [None, ["ids.json"]], ids=str)
def test_a_manifest_without_hashes(kat_cli, folder, outputs):
    found = json.loads((folder / MANIFEST).read_bytes())
    found.pop("outputs")
    (folder / MANIFEST).write_text(json.dumps(found | ({"outputs": outputs} if outputs else {})))
    kat_cli("verify", folder).failed(1)


def test_a_manifest_that_vouches_for_nothing(kat_cli, folder):
    found = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(found | {"outputs": {}}))
    kat_cli("verify", folder).failed(1)


@pytest.mark.parametrize("part", ["stage", "kat_version", "inputs", "options", "outputs"])
@pytest.mark.parametrize("name", ["prefixes_all.jsonl", "embeddings", "density", "pair_weights.parquet"])
def test_a_manifest_of_a_run_without_one_of_its_parts(kat_cli, weighed_run, name, part):
    path = manifest_path(weighed_run / name)
    found = json.loads(path.read_bytes())
    del found[part]
    path.write_text(json.dumps(found))
    assert name in kat_cli("verify", weighed_run).failed(1)
    kat_cli("export-weights", weighed_run, "--to", "jsonl", "--out", weighed_run / "exported")
    ran = kat_cli("weigh-pairs", weighed_run, "--out", weighed_run.parent / "again.parquet")
    assert "Traceback" not in ran.stderr


@pytest.fixture
def weighed_run(kat_cli, demo_run, tmp_path):
    """A run with pair weights, which a test may spoil."""
    shutil.copytree(demo_run, tmp_path / "made")
    run = tmp_path / "made" / "run"
    assert kat_cli("weigh-pairs", run).rc == 0
    assert kat_cli("verify", run).rc == 0
    return run


def test_pair_weights_of_which_the_manifest_alone_is_left(kat_cli, weighed_run):
    (weighed_run / "pair_weights.parquet").unlink()
    assert "pair_weights.parquet is not there" in kat_cli("verify", weighed_run).failed(1)


def test_pair_weights_without_their_manifest(kat_cli, weighed_run):
    (weighed_run / f"pair_weights.parquet.{MANIFEST}").unlink()
    said = kat_cli("verify", weighed_run).failed(1)
    assert "pair_weights.parquet has no manifest: the run that wrote it did not finish" in said
    assert f"kat weigh-pairs {weighed_run} --overwrite" in said


@pytest.mark.parametrize("name", ["prefixes_all.jsonl", "embeddings", "density", "pair_weights.parquet"])
def test_a_manifest_of_a_run_that_names_another_stage(kat_cli, weighed_run, name):
    """Its files hash to what it says, and still nobody may take it for what the run should hold."""
    vouch(weighed_run / name, stage="sample")
    assert "kat sample" in kat_cli("verify", weighed_run).failed(1)


@pytest.mark.parametrize("told", [True, False])
def test_weights_of_other_embeddings_than_the_run_s(kat_cli, weighed_run, told):
    """Each folder alone is what it says; together they are no run, also where an older manifest names no places."""
    if not told:
        vouch(weighed_run / "density", inputs_at={})
    vectors = np.load(weighed_run / "embeddings" / "embeddings.npy")[:, ::-1]
    shutil.copytree(weighed_run / "embeddings", weighed_run / "new")
    (weighed_run / "new" / "embeddings.npy").unlink()
    np.save(weighed_run / "new" / "embeddings.npy", np.ascontiguousarray(vectors))
    made = json.loads((weighed_run / "embeddings" / MANIFEST).read_bytes())
    (weighed_run / "new" / MANIFEST).unlink()
    facts = {name: made.pop(name) for name in ("items_path", "bad_rows", "model", "inputs_at")}
    del made["outputs"], made["manifest_sha256"]
    write_folder_manifest(weighed_run / "new", made, **facts)
    shutil.rmtree(weighed_run / "embeddings")
    (weighed_run / "new").rename(weighed_run / "embeddings")
    assert kat_cli("verify", weighed_run / "embeddings").rc == 0
    assert "density was not made from" in kat_cli("verify", weighed_run).failed(1)


def test_a_run_that_stopped_after_its_prefixes(kat_cli, tmp_path, prompts):
    (tmp_path / "embeddings").mkdir()
    assert "did not finish" in kat_cli("verify", tmp_path).failed(1)


def test_a_run_whose_name_ends_like_a_file(kat_cli, weighed_run):
    named = weighed_run.rename(weighed_run.with_name("run.parquet"))
    ran = kat_cli("weigh-pairs", named)
    assert ran.rc == 0, ran.stderr
    assert f"skipped: {named / 'pair_weights.parquet'}" in ran.stdout


def test_an_output_of_a_stage_that_is_not_known(kat_cli, folder):
    vouch(folder, stage="tomorrow")
    ran = kat_cli("verify", folder)
    assert ran.rc == 0, ran.stderr
    assert "nothing but hashes" in ran.stdout


def test_a_file_of_embeddings(kat_cli, tmp_path, prompts):
    """Its ids, lengths and order are proved like a folder's, whatever its manifest vouches for."""
    out = tmp_path / "made of.pt"
    ran = kat_cli("embed", prompts, "--out", out)
    assert ran.rc == 0, ran.stderr
    assert f"kat density '{out}' --out" in ran.stdout, "a path with a space is quoted"
    assert "unit length" in kat_cli("verify", out, "--prompts_path", prompts).stdout
    value = torch.load(out, weights_only=True)
    value["emb"][3] *= 2
    torch.save(value, out)
    assert "row 3" in kat_cli("verify", out).failed(1)
    value["emb"][3] /= 2
    value["ids"].reverse()
    torch.save(value, out)
    assert "Row 0" in kat_cli("verify", out, "--prompts_path", prompts).failed(1)
