"""No command prints what drives a terminal, whatever ids, texts, sources, columns, file names and reasons hold."""

import json
import shutil
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import jsonl, pair, turn, write

from kat.density.sample_file import read_sample

EVIL = "\x1b[2J\n\r\t\u202e\u2066\u200b\x9b\u2028"
SHOWN = "\\x1b[2J\\n\\r\\t\\u202e\\u2066\\u200b\\x9b\\u2028"
FOLDER = f"f{EVIL}".replace("/", "")
BAD = ("Cc", "Cf", "Cs", "Zl", "Zp")


def clean(ran, rc=0, shown=SHOWN):
    """What a command printed, after checking that no line of it drives a terminal and that the escapes are shown."""
    assert ran.rc == rc, ran
    text = ran.stdout + ran.stderr
    raw = {char for char in text if unicodedata.category(char) in BAD} - {"\n"}
    assert not raw, (ascii(raw), text)
    assert "Traceback" not in text
    assert shown in text, text
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pairs that hold hostile text everywhere, in a folder with a hostile name."""
    folder = tmp_path_factory.mktemp("escapes") / FOLDER
    folder.mkdir()
    rows = [
        pair(f"{EVIL} {i} what of {'abcdefgh'[i % 8] * 3}?", f"yes {i}{EVIL}", f"no{EVIL}", id=f"{i}{EVIL}")
        | {"src": f"s{i % 3}{EVIL}", f"c{EVIL}": "x"}
        for i in range(40)
    ]
    write(folder / f"p{EVIL}.jsonl", jsonl(*rows))
    prompts = [{"id": f"{EVIL}{i}", "prompt": f"{EVIL} {i} {'words ' * (i % 5)}"} for i in range(30)]
    write(folder / "prompts.jsonl", jsonl(*prompts))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / FOLDER)


def test_a_run_and_what_follows(folder, kat_cli, tmp_path):
    pairs, run = folder / f"p{EVIL}.jsonl", folder / "run"
    said = clean(kat_cli("prefixes", pairs, "--out", folder / "prefixes_all.jsonl"))
    assert f"s1{SHOWN}" in said
    said = clean(kat_cli("run", pairs, "--out", run, "--device", "cpu"))
    assert "columns not read: c\\x1b[2J\\n" in said
    clean(kat_cli("run", pairs, "--out", run, "--device", "cpu"))
    clean(kat_cli("verify", run))
    assert f"s0{SHOWN}" in clean(kat_cli("weigh-pairs", run))
    clean(kat_cli("export-weights", run / "pair_weights.parquet", "--to", "trl", "--out", folder / "trl"))
    table = pq.read_table(run / "pair_weights.parquet")
    ids = [i for i, split in zip(*table.select(["pair_id", "split"]).to_pydict().values(), strict=True) if split]
    for name in ("a", "b"):
        rng = np.random.default_rng(ord(name))
        rows = [{"pair_id": i, "chosen": float(rng.normal()), "rejected": float(rng.normal())} for i in ids]
        write(folder / f"{name}{EVIL}.jsonl", jsonl(*rows))
    scores = [folder / f"{name}{EVIL}.jsonl" for name in ("a", "b")]
    told = ["--pair_weights", run / "pair_weights.parquet", "--replicates", 50, "--split", "all"]
    assert f"a{SHOWN}" in clean(kat_cli("evaluate-rm", *scores, *told, "--out", folder / "evaluation"))
    clean(kat_cli("verify", folder / "evaluation"))
    clean(kat_cli("density", run / "embeddings", "--out", folder / "again"))
    opening = json.loads((run / "density" / "ids.json").read_text())[0]
    clean(kat_cli("density", run / "density", "--explain", opening), shown="\\u202e")
    assert f"s0{SHOWN}" in clean(kat_cli("show", run))
    assert "a\\x1b[2J" in clean(kat_cli("show", folder / "evaluation"), shown="\\u202e")
    clean(kat_cli("compare-weights", run, folder / "again"))


def test_prompts_of_hostile_ids_are_sampled_and_read_back(folder, kat_cli):
    embeddings, density, out = folder / "e", folder / "d", folder / "ids.txt"
    clean(kat_cli("embed", folder / "prompts.jsonl", "--out", embeddings, "--device", "cpu"))
    assert f"  {SHOWN}" in clean(kat_cli("density", embeddings, "--out", density))
    clean(kat_cli("density", density, "--explain", f"{EVIL}3"))
    clean(kat_cli("density", density, "--explain", f"{EVIL}nobody"), 2)
    clean(kat_cli("sample", density, "--budget", 30, "--out", out))
    assert read_sample(out) == [f"{EVIL}{i}" for i in range(30)]
    lines = out.read_bytes().split(b"\n")
    assert len(lines) == 31
    assert all(line.isascii() and line.decode().isprintable() for line in lines)
    clean(kat_cli("verify", density))


def test_an_ordinary_sample_is_as_it_was(tmp_path, kat_cli):
    rng = np.random.default_rng(0)
    table = {"id": [f"id {i} é" for i in range(20)], "embedding": rng.normal(size=(20, 4)).tolist()}
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    assert kat_cli("density", tmp_path / "v.parquet", "--out", tmp_path / "d").rc == 0
    assert kat_cli("sample", tmp_path / "d", "--budget", 20, "--out", tmp_path / "ids.txt").rc == 0
    assert (tmp_path / "ids.txt").read_bytes() == "".join(f"{i}\n" for i in table["id"]).encode()


@pytest.mark.parametrize(
    "rows",
    [
        [{f"k{EVIL}": 1}],
        [pair("a"), pair("b") | {"prefix": {"messages": [turn(f"r{EVIL}", "x")]}}],
        [pair("a"), pair("b") | {"images": [f"{EVIL}"], f"image{EVIL}": {"bytes": "x", "path": EVIL}}],
        [b'{"a\\u001b": 1, "a\\u001b": 2}'],
        [],
    ],
    ids=["unknown keys", "a role", "media", "a repeated key", "empty"],
)
def test_errors_in_pairs(folder, kat_cli, rows):
    path = write(folder / f"bad{EVIL}.jsonl", jsonl(*rows))
    said = clean(kat_cli("prefixes", path, "--out", folder / "out.jsonl"), 2)
    assert f"bad{SHOWN}" in said


def test_other_errors(folder, kat_cli):
    same = [{"id": EVIL, "prompt": "a"}, {"id": EVIL, "prompt": "b"}]
    path = write(folder / "same.jsonl", jsonl(*same))
    clean(kat_cli("embed", path, "--out", folder / "e", "--device", "cpu"), 2)
    clean(kat_cli("embed", path, "--out", folder / "e", "--model", f"m{EVIL}"), 2)
    clean(kat_cli("run", folder / "nowhere", "--out", folder / "r"), 2)
    clean(kat_cli("verify", folder / "nowhere"), 2)
    clean(kat_cli("run", path, "--out", folder / "r", "--config", folder / "nowhere.toml"), 2)
    (folder / "c.toml").write_text(f"[{json.dumps('t' + EVIL)}]\nx = 1\n")
    clean(kat_cli("run", path, "--out", folder / "r", "--config", folder / "c.toml"), 2)
    (folder / "c.toml").write_text(f"[run]\ndevice = {json.dumps(EVIL)}\n")
    clean(kat_cli("run", path, "--out", folder / "r", "--config", folder / "c.toml"), 2, shown="\\u202e")
    pq.write_table(pa.table({"id": [EVIL, EVIL], "embedding": [[1.0, 0.0], [0.0, 1.0]]}), folder / "v.parquet")
    clean(kat_cli("density", folder / "v.parquet", "--out", folder / "d"), 2)
    pq.write_table(pa.table({"id": [EVIL, "b"], "embedding": [[np.nan, 0.0], [0.0, 1.0]]}), folder / "v.parquet")
    clean(kat_cli("density", folder / "v.parquet", "--out", folder / "d"), 2)
    pq.write_table(pa.table({f"c{EVIL}": [1]}), folder / "v.parquet")
    assert f"c{SHOWN}" in clean(kat_cli("density", folder / "v.parquet", "--out", folder / "d"), 2)


def test_ids_that_are_no_text_are_an_error(tmp_path, kat_cli):
    import torch

    torch.save({"ids": ["a", "\ud800"], "emb": torch.eye(2)}, tmp_path / "v.pt")
    clean(kat_cli("density", tmp_path / "v.pt", "--out", tmp_path / "d"), 2, shown="id \\ud800 in row 1")


def test_a_damaged_folder(folder, kat_cli):
    embeddings = folder / "e"
    clean(kat_cli("embed", folder / "prompts.jsonl", "--out", embeddings, "--device", "cpu"))
    path = embeddings / "ids.json"
    ids = json.loads(path.read_text())
    path.write_text(json.dumps([ids[1], ids[0], *ids[2:]]))
    clean(kat_cli("verify", embeddings), 1)


def test_models(base_dir, kat_cli):
    folder = base_dir / "chatsft_checkpoints" / f"d4{EVIL}"
    folder.mkdir(parents=True)
    (folder / "model_000001.pt").write_bytes(b"x")
    (folder / "meta_000001.json").write_text(json.dumps({"model_config": {"n_embd": EVIL}}))
    ran = kat_cli("models")
    assert ran.rc == 0
    assert not {char for char in ran.stdout + ran.stderr if unicodedata.category(char) in BAD} - {"\n"}
