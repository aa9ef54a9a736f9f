"""`kat compare-weights`: what it says of two folders of weights, against scipy; what it refuses; that it only reads."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import jsonl, md5_id, write
from scipy.stats import spearmanr

from kat.artifacts import manifest, write_folder_manifest

N = 80


def folder_of(path, values, questions=None, *, unit=None, items=None):
    """A folder of weights of some questions, made without the code that makes such folders."""
    path.mkdir()
    questions = questions or [f"q{i}" for i in range(len(values))]
    values = np.asarray(values, np.float64)
    np.save(path / "density_weights.npy", (values / values.mean()).astype(np.float32))
    (path / "ids.json").write_text(json.dumps([md5_id(one) for one in questions]))
    facts = {"items_path": items} if items else {}
    facts |= {"unit": unit} if unit else {}
    write_folder_manifest(path, manifest("density", {"embeddings": "0"}, {"k": 20}), **facts)
    return path


@pytest.fixture
def prompts(tmp_path):
    rows = [{"id": md5_id(f"q{i}"), "prefix": {"messages": [{"role": "user", "content": f"q{i}"}]}} for i in range(N)]
    return write(tmp_path / "prompts.jsonl", jsonl(*rows)).name


def drawn(seed, n=N):
    return np.random.default_rng(seed).lognormal(size=n)


def number(label, text):
    return float(re.search(rf"^  {label} +([-\d.]+)", text, re.M)[1])


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_said(kat_cli, tmp_path, prompts):
    one = folder_of(tmp_path / "one", drawn(1), items=f"../{prompts}")
    kept = [i for i in range(N) if i % 4]
    values = drawn(1)[kept] * np.random.default_rng(2).uniform(0.3, 3, len(kept))
    more = [f"q{i}" for i in kept] + ["other"]
    two = folder_of(tmp_path / "two", [*values, 1.0], more)
    before = snapshot(tmp_path)
    ran = kat_cli("compare-weights", one, two)
    assert ran.rc == 0, ran.stderr
    a, b = np.load(one / "density_weights.npy")[kept], np.load(two / "density_weights.npy")[:-1]
    said = ran.stdout
    assert number("openings in both", said) == len(kept)
    assert number("in the first alone", said) == N - len(kept)
    assert number("in the second alone", said) == 1
    assert number("rank correlation", said) == pytest.approx(spearmanr(a, b).statistic, abs=6e-4)
    assert number("heaviest tenth in common", said) == pytest.approx(
        100 * len({*np.argsort(-a)[:6]} & {*np.argsort(-b)[:6]}) / 6, abs=0.06
    )
    assert "(10.0% by chance)" in said
    assert number("weight that moves", said) == pytest.approx(50 * np.abs(a / a.sum() - b / b.sum()).sum(), abs=0.06)
    risen = (-a).argsort().argsort() - (-b).argsort().argsort()
    row = kept[int(np.argmax(risen))]
    first = said.splitlines().index("  the 5 that moved up most") + 1
    assert md5_id(f"q{row}") in said.splitlines()[first]
    assert said.splitlines()[first + 1].strip() == f"q{row}"
    assert snapshot(tmp_path) == before


def test_the_second_run_gives_texts_that_the_first_lacks(kat_cli, tmp_path, prompts):
    one = folder_of(tmp_path / "one", drawn(1))
    two = folder_of(tmp_path / "two", drawn(2), items=f"../{prompts}")
    assert re.search(r"^      q\d+$", kat_cli("compare-weights", one, two).stdout, re.M)
    (tmp_path / prompts).unlink()
    assert kat_cli("compare-weights", one, two).rc == 0


def test_a_run_against_itself(kat_cli, tmp_path):
    one = folder_of(tmp_path / "one", drawn(1))
    said = kat_cli("compare-weights", one, one).stdout
    assert number("rank correlation", said) == 1
    assert number("heaviest tenth in common", said) == 100
    assert number("weight that moves", said) == 0
    assert "none of the openings moved in rank" in said


def test_permuted_weights(kat_cli, tmp_path):
    values = drawn(1, 4000)
    one = folder_of(tmp_path / "one", values)
    two = folder_of(tmp_path / "two", np.random.default_rng(5).permutation(values))
    said = kat_cli("compare-weights", one, two).stdout
    assert abs(number("rank correlation", said)) < 0.07
    assert number("heaviest tenth in common", said) == pytest.approx(10, abs=6)


def test_uniform_weights(kat_cli, tmp_path):
    one, two = folder_of(tmp_path / "one", drawn(1)), folder_of(tmp_path / "two", np.ones(N))
    said = kat_cli("compare-weights", one, two).stdout
    assert "none: one weighs all of them alike" in said
    assert "tenth" not in said


def test_two_ks_of_one_run(kat_cli, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 6)) + 3 * rng.normal(size=(8, 6))[rng.integers(0, 8, 200)]
    ids = [f"id\x1b[2J {i}" for i in range(200)]
    pq.write_table(pa.table({"id": ids, "embedding": vectors.tolist()}), tmp_path / "v.parquet")
    for k in (5, 40):
        assert kat_cli("density", tmp_path / "v.parquet", "--out", tmp_path / f"k{k}", "--k", k).rc == 0
    ran = kat_cli("compare-weights", tmp_path / "k5", tmp_path / "k40")
    a, b = (np.load(tmp_path / name / "density_weights.npy") for name in ("k5", "k40"))
    assert number("rank correlation", ran.stdout) == pytest.approx(spearmanr(a, b).statistic, abs=6e-4)
    assert re.search(r"^  k +5, then 40$", ran.stdout, re.M)
    assert "\x1b" not in ran.stdout
    assert "id\\x1b[2J" in ran.stdout


def test_sixty_columns(kat_cli, tmp_path, prompts, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = [{"id": md5_id(f"q{i}"), "prompt": f"q{i} " + "words \x1b[2J\u202e " * 40} for i in range(N)]
    write(tmp_path / "long.jsonl", jsonl(*long))
    one = folder_of(tmp_path / "one", drawn(1), items="../long.jsonl")
    two = folder_of(tmp_path / "two", drawn(2))
    monkeypatch.chdir(tmp_path)
    ran = kat_cli("compare-weights", one.name, two.name)
    assert ran.rc == 0
    assert "words \\x1b[2J" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 60


def test_units_that_differ(kat_cli, tmp_path):
    one, two = folder_of(tmp_path / "one", drawn(1)), folder_of(tmp_path / "two", drawn(1), unit="context")
    said = kat_cli("compare-weights", one, two).failed()
    assert "openings" in said
    assert "contexts" in said
    assert kat_cli("compare-weights", two, two).stdout.count("contexts in both") == 1


def test_too_little_in_common(kat_cli, tmp_path):
    one = folder_of(tmp_path / "one", drawn(1))
    for shared, rc in ((19, 2), (20, 0)):
        names = [f"q{i}" for i in range(shared)] + [f"r{i}" for i in range(N - shared)]
        ran = kat_cli("compare-weights", one, folder_of(tmp_path / f"two{shared}", drawn(3), names))
        assert ran.rc == rc, ran
    said = kat_cli("compare-weights", one, tmp_path / "two19").failed()
    assert "19 openings in common" in said


def test_what_is_no_run(kat_cli, tmp_path):
    one = folder_of(tmp_path / "one", drawn(1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "w.parquet").write_bytes(b"x")
    for other, word in (("nowhere", "does not exist"), ("empty", "holds no weights"), ("w.parquet", "is no folder")):
        assert word in kat_cli("compare-weights", one, tmp_path / other).failed()


def test_damaged_weights(kat_cli, tmp_path):
    one, two = (folder_of(tmp_path / name, drawn(1)) for name in ("one", "two"))
    content = (two / "density_weights.npy").read_bytes()
    (two / "density_weights.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "density_weights.npy" in kat_cli("compare-weights", one, two).failed()
