"""`--max_line_bytes`: a longer line is a bad row of every command, and later stages read the pairs as the first did."""

import json

import pytest
from making import jsonl

from kat.artifacts import read_manifest


def rows(n=30, long=(7,)):
    return [{"prompt": f"question {i}", "chosen": "x" * (900 if i in long else 5), "rejected": "no"} for i in range(n)]


def test_pairs_are_read_alike_by_all_stages(kat_cli, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(jsonl(*rows()))
    run, limit = tmp_path / "run", ("--max_line_bytes", "500", "--max_bad_rows", "1")
    said = kat_cli("run", tmp_path / "p.jsonl", "--out", run, "--device", "cpu", "--max_line_bytes", "500").failed()
    assert "p.jsonl:8" in said
    assert "line longer than 500 bytes (--max_line_bytes)" in said
    assert kat_cli("run", tmp_path / "p.jsonl", "--out", run, "--device", "cpu", *limit).rc == 0
    assert read_manifest(run / "prefixes_all.jsonl")["options"]["max_line_bytes"] == 500
    assert kat_cli("weigh-pairs", run, "--validation_share", "0").rc == 0
    manifest = read_manifest(run / "pair_weights.parquet")
    assert (manifest["options"]["max_line_bytes"], manifest["options"]["max_bad_rows"]) == (500, 1)
    assert kat_cli("export-weights", run, "--to", "trl", "--out", tmp_path / "trl").rc == 0


@pytest.mark.parametrize("command", ["prefixes", "embed", "evaluate-rm"])
def test_commands_that_read_lines(kat_cli, tmp_path, command):
    good = {
        "prefixes": rows(3, ()),
        "embed": [{"id": str(i), "prompt": f"q{i}"} for i in range(3)],
        "evaluate-rm": [{"pair_id": str(i), "chosen": i, "rejected": 1.5} for i in range(40)],
    }[command]
    path, out = tmp_path / "d.jsonl", tmp_path / "out"
    path.write_bytes(jsonl(*good, good[0] | {"more": "x" * 900}))
    more = {"embed": ("--device", "cpu"), "evaluate-rm": ("--replicates", "20")}.get(command, ())
    told = (command, path, "--out", out, "--max_line_bytes", "500", *more)
    assert "line longer than 500 bytes" in kat_cli(*told).failed()
    assert kat_cli(*told, "--max_bad_rows", "1").rc == 0
    assert read_manifest(out)["options"]["max_line_bytes"] == 500
    assert json.loads(next(tmp_path.glob("*rejected.jsonl")).read_bytes())["raw"] == ""
