"""How pairs are read goes from the command line into manifests, and from there to every later stage."""

import json

import pytest
from making import jsonl, read_jsonl, write

ROWS = [
    {
        "q": f"question {i} about topic {i % 7}",
        "good": f"a {i}",
        "bad": f"b {i}",
        "chosen_score": i,
        "rejected_score": 5,
    }
    for i in range(60)
]
COLUMNS = ("--columns", "prompt=q,chosen=good,rejected=bad")


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", jsonl(*(row | {"note": "x", "images": ["p"]} for row in ROWS)))


def test_prefixes_says_what_it_did(kat_cli, pairs, tmp_path):
    out = tmp_path / "p.jsonl"
    assert "--drop_columns images" in kat_cli("prefixes", pairs, "--out", out, *COLUMNS).failed()
    options = (*COLUMNS, "--drop_columns", "images")
    assert "--score_conflict keep" in kat_cli("prefixes", pairs, "--out", out, *options).failed()
    ran = kat_cli("prefixes", pairs, "--out", out, *options, "--score_conflict", "drop")
    assert ran.rc == 0, ran.stderr
    assert "columns not read: note (60 rows)" in ran.stdout
    assert "dropped: scores against the order: chosen_score is below rejected_score   5" in ran.stdout
    assert len(read_jsonl(out)) == 55
    held = json.loads((tmp_path / "p.jsonl.manifest.json").read_bytes())["options"]
    assert held == {"max_bad_rows": 0, "columns": COLUMNS[1], "drop_columns": "images", "score_conflict": "drop"}
    assert "skipped" in kat_cli("prefixes", pairs, "--out", out, *options, "--score_conflict", "drop").stdout
    kat_cli("prefixes", pairs, "--out", out, *options, "--score_conflict", "keep").failed()


def test_a_run_tells_later_stages_how_its_pairs_were_read(kat_cli, pairs, tmp_path):
    import pyarrow.parquet as pq

    run, table = tmp_path / "run", tmp_path / "table"
    options = (*COLUMNS, "--drop_columns", "images", "--score_conflict", "swap")
    assert kat_cli("run", pairs, "--out", run, *options, "--device", "cpu").rc == 0
    ran = kat_cli("weigh-pairs", run, "--split", "none")
    assert ran.rc == 0, ran.stderr
    ran = kat_cli("export-weights", run, "--to", "trl", "--out", table)
    assert ran.rc == 0, ran.stderr
    rows = pq.read_table(table / "explicit.train.parquet").to_pylist()
    found = {(r["prompt"][0]["content"], r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows}
    assert found == {
        (r["q"], r["bad"] if i < 5 else r["good"], r["good"] if i < 5 else r["bad"]) for i, r in enumerate(ROWS)
    }


def test_an_option_of_weigh_pairs_leaves_the_others_of_the_run(kat_cli, tmp_path):
    """Other columns are there under the names that kat knows: read instead, they would be exported without a word."""
    import pyarrow.parquet as pq

    others = {"prompt": "another question", "chosen": "another a", "rejected": "another b"}
    rows = [{**row, **others, "prompt": row["q"]} for row in ROWS]
    pairs, run, table = write(tmp_path / "pairs.jsonl", jsonl(*rows)), tmp_path / "run", tmp_path / "table"
    columns = ("--columns", "chosen=good,rejected=bad")
    ran = kat_cli("run", pairs, "--out", run, *columns, "--score_conflict", "drop", "--device", "cpu")
    assert ran.rc == 0, ran.stderr
    ran = kat_cli("weigh-pairs", run, "--split", "none", "--score_conflict", "keep", "--missing_weight", "one")
    assert ran.rc == 0, ran.stderr
    ran = kat_cli("export-weights", run, "--to", "trl", "--out", table)
    assert ran.rc == 0, ran.stderr
    found = pq.read_table(table / "explicit.train.parquet").to_pylist()
    assert {r["chosen"][0]["content"] for r in found} == {row["good"] for row in ROWS}
    named = kat_cli(
        "weigh-pairs", run, "--pairs_path", pairs, "--split", "none", "--missing_weight", "one", "--overwrite"
    )
    assert named.rc == 0, named.stderr  # the run's own file, named once more, is read as the run read it
    held = json.loads((run / "pair_weights.parquet.manifest.json").read_bytes())["options"]
    assert (held["columns"], held["score_conflict"]) == (columns[1], "drop")


@pytest.mark.parametrize("name", ["history", "documents", "chat_template_kwargs"])
def test_a_part_of_the_prompt_is_never_left_behind_in_silence(kat_cli, tmp_path, name):
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", name: [["earlier", "turn"]]} for i in range(5)]
    rows.append({"prompt": "alone", "chosen": "a", "rejected": "b", name: []})
    data = write(tmp_path / "p.jsonl", jsonl(*rows))
    said = kat_cli("prefixes", data, "--out", tmp_path / "o.jsonl").failed()
    assert f"5 × column {name} belongs to the prompt and cannot be carried (--drop_columns {name})" in said
    assert kat_cli("prefixes", data, "--out", tmp_path / "o.jsonl", "--drop_columns", name).rc == 0


def test_a_format_that_has_a_history_carries_it(kat_cli, tmp_path):
    row = {"instruction": "now", "input": "", "chosen": "a", "rejected": "b", "history": [["before", "said"]]}
    out = tmp_path / "o.jsonl"
    assert kat_cli("prefixes", write(tmp_path / "p.jsonl", jsonl(row)), "--out", out).rc == 0
    assert [m["content"] for m in read_jsonl(out)[0]["prefix"]["messages"]] == ["before", "said", "now"]
