"""Density of contexts: another unit, other ids, and every join follows; and when `kat run` recommends it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from making import jsonl, md5_id, pair, turn, write

from kat.data.openings import several_contexts, unit_id
from kat.data.pairs import read_pairs

ASKED = ["bake bread", "tune a guitar", "write a haiku", "fix a bicycle", "learn Spanish", "plant a rose"]


@pytest.fixture
def greeted(tmp_path):
    """Rare questions that all come after the same greeting, and common ones that do not."""
    rows = [pair(f"How do I {ASKED[i % 6]} well, version {i}?", f"good {i}", id=f"common{i}") for i in range(60)]
    for i in range(12):
        after = (turn("assistant", "Hello! How can I help?"), turn("user", f"Why does object {i * 37} {ASKED[i % 6]}?"))
        rows.append(pair("Hi", f"good {i}", after=after, id=f"rare{i}"))
    return write(tmp_path / "pairs.jsonl", jsonl(*rows))


def run(kat_cli, *argv):
    ran = kat_cli(*argv, *(() if argv[0] == "prefixes" else ("--device", "cpu")))  # counting is on no device
    assert ran.rc == 0, ran.stderr
    return ran.stdout


def test_ids_hash_what_a_context_says():
    one = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Why?")]
    assert unit_id(one, "opening") == md5_id("Hi")
    assert unit_id(one, "context") != unit_id(one, "opening")
    others = [
        one[:1],
        [*one[:2], turn("user", "Who?")],
        [turn("system", ""), *one],
        [one[0], {**one[1], "name": "x"}, one[2]],
    ]
    assert len({unit_id(messages, "context") for messages in [one, *others]}) == 5


def test_every_join_follows(kat_cli, greeted, tmp_path):
    out = tmp_path / "run"
    run(kat_cli, "run", greeted, "--out", out, "--unit", "context")
    prefixes = [json.loads(line) for line in (out / "prefixes_all.jsonl").read_text().splitlines()]
    assert len(prefixes) == 72
    assert [p["id"] for p in prefixes] == [unit_id(p["prefix"]["messages"], "context") for p in prefixes]
    assert json.loads((out / "density" / "ids.json").read_text()) == [p["id"] for p in prefixes]
    assert json.loads((out / "prefixes_all.jsonl.manifest.json").read_text())["options"]["unit"] == "context"
    assert json.loads((out / "density" / "manifest.json").read_text())["unit"] == "context"
    assert not (out / "contexts.json").exists()
    run(kat_cli, "weigh-pairs", out, "--split", "none")
    table = pq.read_table(out / "pair_weights.parquet").to_pydict()
    weights = dict(zip([p["id"] for p in prefixes], np.load(out / "density" / "density_weights.npy"), strict=True))
    assert set(table["m"]) == {1}
    assert table["w"] == pytest.approx([float(weights[i]) for i in table["opening_id"]])
    run_again = run(kat_cli, "weigh-pairs", out, "--split", "none", "--pairs_path", greeted, "--overwrite")
    assert "weigh-pairs" in run_again
    shown = kat_cli("show", out).stdout.splitlines()
    assert [line for line in run_again.splitlines()[1:] if not line.startswith("next ") and line not in shown] == []
    assert any("5 heaviest contexts" in line for line in shown)
    assert "contexts in both" in kat_cli("compare-weights", out, out / "density").stdout
    kat_cli("export-weights", out, "--to", "trl", "--out", tmp_path / "trl")
    assert pq.read_table(tmp_path / "trl" / "prompts.train.parquet").num_rows == 72
    assert kat_cli("verify", out).rc == 0


def test_a_run_says_when_contexts_differ_more_than_openings(kat_cli, greeted, tmp_path):
    out = tmp_path / "run"
    said = run(kat_cli, "run", greeted, "--out", out)
    assert "contexts       1 openings have several contexts" in said
    assert "weigh them by themselves, with --unit context" in said
    spread = json.loads((out / "contexts.json").read_text())
    assert (spread["openings"], spread["contexts"], spread["apart"]) == (1, 4, True)
    assert "contexts       skipped" in run(kat_cli, "run", greeted, "--out", out)
    assert kat_cli("verify", out).rc == 0


def test_a_run_is_quiet_where_they_do_not(kat_cli, tmp_path):
    rows = []
    for i in range(40):
        question = f"{ASKED[i % 6]} {i * 13} times in a row, please?"
        rows.append(pair(question, "good"))
        rows.append(pair(question, "good", after=(turn("assistant", "Ok."), turn("user", question))))
    said = run(kat_cli, "run", write(tmp_path / "p.jsonl", jsonl(*rows)), "--out", tmp_path / "run")
    assert "40 openings have several contexts" in said
    assert "--unit context" not in said


def test_the_sample_does_not_depend_on_order(greeted, tmp_path):
    lines = greeted.read_bytes().splitlines(keepends=True)
    other = write(tmp_path / "other.jsonl", b"".join(lines[::-1]))
    one, two = (several_contexts(lambda path=path: read_pairs(path), 5, 4) for path in (greeted, other))
    assert [[p.messages for p in group] for group in one] == [[p.messages for p in group] for group in two]
    assert [len(group) for group in one] == [4]


def test_an_unknown_unit_is_an_error(kat_cli, greeted, tmp_path):
    assert "context" in kat_cli("run", greeted, "--out", tmp_path / "r", "--unit", "pair").failed()


def test_weights_of_openings_are_not_taken_for_those_of_contexts(kat_cli, greeted, tmp_path):
    out = tmp_path / "run"
    run(kat_cli, "run", greeted, "--out", out)
    assert "are of openings" in kat_cli("weigh-pairs", out, "--split", "none", "--unit", "context").failed()
    assert not (out / "pair_weights.parquet").exists()


@pytest.mark.parametrize(("held", "asked"), [("opening", "context"), ("context", "opening")])
def test_a_unit_that_is_not_the_runs_is_an_error_everywhere(kat_cli, greeted, tmp_path, held, asked):
    out = tmp_path / "run"
    run(kat_cli, "run", greeted, "--out", out, "--unit", held)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for folder in (out, out / "density"):
        said = kat_cli("weigh-pairs", folder, "--split", "none", "--unit", asked).failed()
        assert f"unit is {asked}" in said
        assert f"are of {held}s" in said
        assert "Leave --unit out" in said
        assert f"--unit {asked}" in said
    for command in (("run", greeted, "--out", out), ("prefixes", greeted, "--out", out / "prefixes_all.jsonl")):
        said = kat_cli(*command, "--unit", asked, *(("--device", "cpu") if command[0] == "run" else ())).failed()
        assert f"holds {held}s, and {asked}s were asked for. Add --unit {held}" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    # Its own unit may be named, and is the same as saying nothing.
    run(kat_cli, "weigh-pairs", out, "--split", "none")
    assert "skipped" in run(kat_cli, "weigh-pairs", out, "--split", "none", "--unit", held)
    assert "prefixes       skipped" in run(kat_cli, "run", greeted, "--out", out, "--unit", held)


def test_a_run_of_contexts_is_not_replaced_by_one_that_forgot_the_unit(kat_cli, greeted, tmp_path):
    run(kat_cli, "prefixes", greeted, "--out", tmp_path / "p.jsonl", "--unit", "context")
    said = kat_cli("prefixes", greeted, "--out", tmp_path / "p.jsonl").failed()
    assert "holds contexts, and openings were asked for. Add --unit context" in said


def test_changed_pairs_are_run_again_with_the_units_flag(kat_cli, greeted, tmp_path):
    """The command that the message gives makes the same kind of run."""
    out = tmp_path / "run"
    run(kat_cli, "run", greeted, "--out", out, "--unit", "context")
    greeted.write_bytes(greeted.read_bytes().replace(b'"good 1"', b'"good one"'))
    said = kat_cli("weigh-pairs", out, "--split", "none").failed()
    run(kat_cli, *said.partition("Run again: kat ")[2].split())
    assert json.loads((out / "density" / "manifest.json").read_text())["unit"] == "context"


@pytest.mark.parametrize("name", ["emb.pt", "embeddings"])
def test_the_unit_outlives_the_prefixes(kat_cli, greeted, tmp_path, name):
    prefixes, vectors, weights = tmp_path / "p.jsonl", tmp_path / name, tmp_path / "w"
    run(kat_cli, "prefixes", greeted, "--out", prefixes, "--unit", "context")
    run(kat_cli, "embed", prefixes, "--out", vectors)
    prefixes.unlink()
    run(kat_cli, "density", vectors, "--out", weights)
    assert (
        "are of contexts"
        in kat_cli("weigh-pairs", weights, "--pairs_path", greeted, "--split", "none", "--unit", "opening").failed()
    )
    run(kat_cli, "weigh-pairs", weights, "--pairs_path", greeted, "--split", "none")
    assert pq.read_table(weights / "pair_weights.parquet").num_rows == 72


def test_the_demo_is_checked_by_the_runs_unit(kat_cli, tmp_path):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    assert kat_cli("demo-data", "--out", pairs, "--pairs", "600").rc == 0
    run(kat_cli, "run", pairs, "--out", out, "--unit", "context")
    assert "made from this file" not in kat_cli("demo-check", pairs, out).stderr


def test_lists_show_what_tells_contexts_apart(kat_cli, greeted, tmp_path):
    out = tmp_path / "run"
    said = run(kat_cli, "run", greeted, "--out", out, "--unit", "context")
    lists = said.partition("heaviest contexts\n")[2] + run(kat_cli, "weigh-pairs", out, "--split", "none")
    meta = json.loads((out / "density" / "embeddings_metadata.json").read_text())
    greeted_ones = [one for one in meta["heaviest"] if one["opening"] == "Hi"]
    assert len({one["later"] for one in greeted_ones}) == len(greeted_ones) > 1
    assert all("later" not in one for one in meta["heaviest"] if one["opening"] != "Hi")
    shown = [line.split("  ")[-1] for line in lists.splitlines() if "Hi … Why does object" in line]
    assert len(set(shown)) >= len(greeted_ones)
    explained = kat_cli("density", out, "--explain", greeted_ones[0]["id"]).stdout
    assert explained.splitlines()[0].endswith(f"Hi … {greeted_ones[0]['later']}")
