"""`kat verify` proves that a folder is whole: every way of breaking one is found, the first wrong row by its number."""

import json

import numpy as np
import pytest
from making import jsonl, md5_id, write

from kat.artifacts import MANIFEST, manifest, write_folder_manifest

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
    assert "prompts_path" in kat_cli("verify", folder).failed(1)


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
