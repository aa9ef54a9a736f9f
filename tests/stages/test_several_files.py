"""Pairs in several files: the same as in one, from prefixes to the export, with every row's own place."""

import json
import shutil

import pytest
from making import hh, jsonl, pair, read_jsonl, write


def rows(start, end):
    topics = ("tea", "rain", "boats", "bread")
    return [pair(f"{topics[i % 4]} {i % 90}?", f"yes {i}", f"no {i}", id=f"p{i}", src="x") for i in range(start, end)]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for n, (start, end) in {1: (0, 40), 2: (40, 90), 10: (90, 150)}.items():
        (folder / f"part-{n}.jsonl").write_bytes(b"\n" + jsonl(*rows(start, end)) + b"\n\n")
    write(tmp_path / "all.jsonl", jsonl(*rows(0, 150)))
    return folder


def test_prefixes_of_several_files_are_those_of_one(shards, tmp_path, kat_cli):
    files = sorted(shards.iterdir(), key=lambda p: int(p.stem[5:]))
    assert kat_cli("prefixes", tmp_path / "all.jsonl", "--out", tmp_path / "one.jsonl").rc == 0
    want = (tmp_path / "one.jsonl").read_bytes()
    for name, named in {"folder": [shards], "glob": [shards / "*.jsonl"], "files": files}.items():
        out = tmp_path / f"{name}.jsonl"
        ran = kat_cli("prefixes", *named, "--out", out)
        assert ran.rc == 0, ran.stderr
        assert out.read_bytes() == want, name
        assert "skipped" in kat_cli("prefixes", *named, "--out", out).stdout
    paths = {
        n: json.loads((tmp_path / f"{n}.jsonl.manifest.json").read_bytes())["pairs_path"] for n in ("glob", "files")
    }
    assert paths == {"glob": "shards/*.jsonl", "files": [f"shards/{f.name}" for f in files]}


def test_origins_command_takes_a_folder(shards, tmp_path, python):
    ran = python("-m", "scripts.kat_make_prefixes", "--pairs_path", shards, "--out", tmp_path / "p.jsonl")
    assert ran.rc == 0, ran.stderr
    assert kat_ids(tmp_path / "p.jsonl") == list(dict.fromkeys(kat_ids(tmp_path / "p.jsonl")))


def kat_ids(path):
    return [row["id"] for row in read_jsonl(path)]


@pytest.mark.parametrize("kind", ["folder", "glob", "files"])
def test_from_run_to_export(shards, tmp_path, kat_cli, kind):
    files = [shards / f"part-{n}.jsonl" for n in (1, 2, 10)]
    named = {"folder": [shards], "glob": [shards / "*.jsonl"], "files": files}[kind]
    runs = {tmp_path / "several": named, tmp_path / "single": [tmp_path / "all.jsonl"]}
    for run, pairs in runs.items():
        for command in (["run", *pairs, "--out", run, "--device", "cpu"], ["weigh-pairs", run]):
            ran = kat_cli(*command)
            assert ran.rc == 0, ran.stderr
        assert kat_cli("export-weights", run, "--to", "jsonl", "--out", run / "out").rc == 0
        assert kat_cli("verify", run).rc == 0
    several, single = (read_jsonl(run / "out" / "weights.jsonl") for run in runs)
    assert several == single
    # Everything moves together; a shard that changed or came later is noticed.
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "several", moved / "several")
    shutil.copytree(shards, moved / "shards")
    assert kat_cli("export-weights", moved / "several", "--to", "jsonl", "--out", moved / "again").rc == 0
    assert "skipped" in kat_cli("weigh-pairs", moved / "several").stdout
    (moved / "shards" / "part-2.jsonl").write_bytes(jsonl(*rows(40, 89)))
    assert "changed since" in kat_cli("weigh-pairs", moved / "several").failed()
    shutil.rmtree(moved / "shards")
    assert "is not there" in kat_cli("weigh-pairs", moved / "several").failed()
    again = [word for path in named for word in ("--pairs_path", path)]
    assert kat_cli("weigh-pairs", moved / "several", *again, "--overwrite").rc == 0


def test_rows_know_their_file_and_their_number_is_unique(shards):
    from kat import read_pairs

    reader = read_pairs([shards / "part-2.jsonl", shards / "part-1.jsonl"])
    numbers = [p.row for p in reader]
    assert numbers == [*range(2, 52), *range(53, 93)]  # blank lines count, as in one file


def test_a_bad_row_is_named_in_its_shard(shards, tmp_path, kat_cli):
    (shards / "part-2.jsonl").write_bytes(jsonl(*rows(40, 43)) + b"{oops}\n" + jsonl(*rows(43, 90)))
    message = kat_cli("prefixes", shards, "--out", tmp_path / "p.jsonl").failed()
    assert f"first at {shards / 'part-2.jsonl'}:4" in message
    assert kat_cli("prefixes", shards, "--out", tmp_path / "p.jsonl", "--max_bad_rows", "1").rc == 0
    (bad,) = read_jsonl(tmp_path / "p.jsonl.rejected.jsonl")
    assert (bad["file"], bad["line"], bad["raw"]) == (str(shards / "part-2.jsonl"), 4, "{oops}")


@pytest.mark.parametrize("before", [40, 120])  # in what is looked at before the first pair, and past it
def test_a_shard_of_another_format_is_named(shards, tmp_path, kat_cli, before):
    (shards / "part-1.jsonl").write_bytes(jsonl(*rows(0, before)))
    text = hh(("Human", "a"), ("Assistant", "b"))
    (shards / "part-10.jsonl").write_bytes(jsonl(*[{"chosen": text + f"{i}", "rejected": text} for i in range(150)]))
    message = kat_cli("prefixes", shards, "--out", tmp_path / "p.jsonl", "--max_bad_rows", "all").failed()
    message = message.replace("line 1 of ", "")
    assert f"{shards / 'part-10.jsonl'} is hh" in message
    assert f"{shards / 'part-1.jsonl'} is kat" in message


def test_an_empty_shard_has_no_pairs(shards, tmp_path, kat_cli):
    (shards / "part-3.jsonl").touch()
    assert "150 pairs" in kat_cli("prefixes", shards, "--out", tmp_path / "p.jsonl").stdout


def test_an_output_among_the_shards_is_refused(shards, kat_cli):
    for named in (shards, shards / "*.jsonl"):
        message = kat_cli("prefixes", named, "--out", shards / "prefixes.jsonl").failed()
        assert "part of its own input" in message
        assert not (shards / "prefixes.jsonl").exists()


def test_the_source_of_rows_is_what_was_named(tmp_path, kat_cli):
    (tmp_path / "d").mkdir()
    for name in ("d/a.jsonl", "d/b.jsonl"):
        (tmp_path / name).write_bytes(jsonl(*[pair(f"{name} {i}") for i in range(3)]))
    assert kat_cli("prefixes", tmp_path / "d", "--out", tmp_path / "p").rc == 0
    assert json.loads((tmp_path / "p.stats.json").read_bytes())["rows_by_source"] == {"d": 6}
    named = (tmp_path / "d" / "b.jsonl", tmp_path / "d" / "a.jsonl")
    assert kat_cli("prefixes", *named, "--out", tmp_path / "q").rc == 0
    assert json.loads((tmp_path / "q.stats.json").read_bytes())["rows_by_source"] == {"b.jsonl": 3, "a.jsonl": 3}


def test_prompts_in_shards_are_embedded_and_found_again(tmp_path, kat_cli):
    (tmp_path / "d").mkdir()
    for n in (1, 2, 10):
        (tmp_path / "d" / f"{n}.jsonl").write_bytes(
            jsonl(*[{"id": f"{n}-{i}", "prompt": f"{n} {i}"} for i in range(9)])
        )
    assert kat_cli("embed", tmp_path / "d", "--out", tmp_path / "e", "--device", "cpu").rc == 0
    want = [f"{n}-{i}" for n in (1, 2, 10) for i in range(9)]
    assert json.loads((tmp_path / "e" / "ids.json").read_bytes()) == want
    ran = kat_cli("verify", tmp_path / "e")
    assert ran.rc == 0, ran.stderr
    assert f"ids in the order of {tmp_path / 'd'}" in ran.stdout.replace("e/../", "")
