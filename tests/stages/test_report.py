"""`kat report`: the page's figures are those of the files, the map's rows those of the weights, and nothing is lost."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest
from making import jsonl, pair, turn, vouch, write

import kat
import kat.errors
from kat.stages import run as run_stage
from kat.terminal import shell_word

HOSTILE = [
    '</script><script>alert(1)</script> what is "this" & that?',
    "<img src=x onerror=alert(2)> and 'quotes' {{ 7 * 7 }} {% raw %}",
    "مرحبا \u202e reversed \u2066 isolated 🧑‍🚀 x\u0301\u0301\u0301",
    "control \x00\x01\x1b[2J\x7f characters",
    "long " * 80_000,
]


class Tables(HTMLParser):
    """Collects the raw values of a page's tables: {title: [[cell, …], …]}, where cells are data-value or text."""

    def __init__(self, page):
        super().__init__()
        self.tables, self._title, self._rows, self._cell, self._heading = {}, "", None, None, None
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        if tag in ("h3", "caption"):
            self._heading = ""
        elif tag == "tr" and self._title:
            self.tables.setdefault(self._title, []).append([])
        elif tag in ("td", "th") and self._title in self.tables:
            self._cell = [told.get("data-value"), ""]

    def handle_data(self, data):
        self.text += data
        if self._heading is not None:
            self._heading += data
        if self._cell is not None:
            self._cell[1] += data

    def handle_endtag(self, tag):
        if tag in ("h3", "caption"):
            self._title, self._heading = self._heading.strip(), None
        elif tag in ("td", "th") and self._cell is not None:
            raw, text = self._cell
            self.tables[self._title][-1].append(text.strip() if raw is None else float(raw))
            self._cell = None

    def named(self, title):
        """A table of two columns as a dict."""
        return {row[0]: row[1] for row in self.tables[title] if len(row) == 2}


@pytest.fixture
def run(demo_run, tmp_path, kat_cli):
    """A run with pair weights, and no report yet."""
    shutil.copytree(
        demo_run, tmp_path / "demo", ignore=lambda _, names: {n for n in names if "report" in n or "map." in n}
    )
    folder = tmp_path / "demo" / "run"
    assert kat_cli("weigh-pairs", folder).rc == 0
    return folder


def page_of(run):
    return Tables((run / "report.html").read_text(encoding="utf-8"))


def read(path):
    return json.loads(path.read_bytes())


def test_the_figures_are_those_of_the_files(run, kat_cli):
    assert kat_cli("report", run).rc == 0
    page = page_of(run)
    meta, weighed = read(run / "density" / "embeddings_metadata.json"), read(run / "pair_weights.stats.json")
    prefixes = read(run / "prefixes_all.stats.json")
    counts, shares, numbers = (page.named(f"Main figures: {kind}") for kind in ("counts", "shares", "numbers"))
    assert counts["pairs"] == prefixes["pairs"] == 600
    assert counts["openings"] == meta["n_items"] == prefixes["openings"]
    assert counts["pairs that train"] == weighed["split"]["train"]["pairs"]
    assert counts["neighbours, k"] == meta["k"]
    assert shares["effective sample size, of openings"] == meta["effective_sample_share"]
    assert shares["effective sample size, of pairs that train"] == weighed["weights"]["ess_pairs_share"]
    assert numbers["temperature, T"] == meta["temperature"]
    assert numbers["largest weight"] == meta["weight"]["max"]
    assert numbers["mean pair cosine"] == meta["mean_pair_cosine"]
    [paying] = [
        rows for title, rows in page.tables.items() if title.startswith("Who pays and who gains, by density bin")
    ]
    by_bin = {row[0].split(",")[0]: row for row in paying[1:]}
    for one in weighed["bins"]:
        _, pairs, of_pairs, of_weight, mean = by_bin[f"bin {one['bin']}"]
        assert (pairs, of_pairs, of_weight) == pytest.approx(
            (one["pairs"], one["share_of_pairs"], one["share_of_weight"])
        )
        assert mean == pytest.approx(one["mean_v"])
    assert by_bin["bin 0"][4] > 1 > by_bin["bin 4"][4]  # rare weighs more


def test_the_heaviest_and_lightest_are_those_of_the_weights(run, kat_cli):
    assert kat_cli("report", run).rc == 0
    mapping = kat.load_density_mapping(run / "prefixes_all.jsonl", run / "density" / "density_weights.npy")
    tables = page_of(run).tables
    for title, sign in (("heaviest", -1), ("lightest", 1)):
        [rows] = [rows for name, rows in tables.items() if title in name.lower() and "opening" in name.lower()]
        weights = [value for row in rows[1:] for value in row if isinstance(value, float)]
        expected = sorted(mapping.values(), key=lambda w: sign * w)[:20]
        assert np.isin(np.float32(expected), np.float32(weights)).all(), title


def test_the_map_has_a_row_an_opening(run, kat_cli):
    assert kat_cli("report", run, "--topic", "topic").rc == 0
    table = pq.read_table(run / "map.parquet").to_pydict()
    mapping = kat.load_density_mapping(run / "prefixes_all.jsonl", run / "density" / "density_weights.npy")
    assert dict(zip(table["id"], table["weight"], strict=True)) == pytest.approx(mapping)
    assert np.isfinite(np.asarray([table["projection_x"], table["projection_y"]])).all()
    prompts = kat.open_prefixes(run / "prefixes_all.jsonl")
    topics = {}
    for line in (run.parent / "pairs.jsonl").read_text().splitlines():
        row = json.loads(line)
        topics.setdefault(kat.opening_id(opening_of(row)), set()).add(row["topic"])
    for one, text, topic in zip(table["id"], table["text"], table["topic"], strict=True):
        assert text == prompts[one].opening
        assert {topic} == topics[one] or (topic == "several" and len(topics[one]) > 1)
    bins = kat.read_pair_weights(run / "pair_weights.parquet")
    of = dict(zip(bins.opening_id.tolist(), bins.bin.tolist(), strict=True))
    assert all(name.startswith(f"bin {of[one]}") for one, name in zip(table["id"], table["density_bin"], strict=True))


def opening_of(row):
    prefix = row.get("prefix") or row["prompt"]
    messages = prefix["messages"] if isinstance(prefix, dict) else prefix
    return next(m["content"] for m in messages if m["role"] == "user")


def test_it_is_made_once_and_again_when_something_new_is_there(run, kat_cli):
    assert kat_cli("report", run).rc == 0
    before, rows = (run / "report.html").read_bytes(), pq.read_table(run / "map.parquet")
    assert "skipped" in kat_cli("report", run).stdout
    (run / "report.html").unlink()
    (run / "report.html.manifest.json").unlink()
    assert kat_cli("report", run, "--overwrite").rc == 0
    assert (run / "report.html").read_bytes() == before
    assert pq.read_table(run / "map.parquet") == rows
    assert kat_cli("weigh-pairs", run, "--control", "permuted").rc == 0
    assert kat_cli("weigh-pairs", run, "--blend", "1", "--overwrite").rc == 0
    ran = kat_cli("report", run)  # without --overwrite: a report of kat's, which nobody changed
    assert ran.rc == 0
    assert "skipped" not in ran.stdout
    assert (run / "report.html").read_bytes() != before
    assert kat_cli("verify", run).rc == 0


@pytest.mark.parametrize("name", ["report.html", "map.parquet"])
def test_what_somebody_changed_is_not_replaced(run, kat_cli, name):
    assert kat_cli("report", run).rc == 0
    (run / name).write_bytes((run / name).read_bytes() + b"\n<!-- mine -->")
    assert kat_cli("weigh-pairs", run, "--blend", "1", "--overwrite").rc == 0
    kept = (run / name).read_bytes()
    assert "--overwrite" in kat_cli("report", run).failed()
    assert (run / name).read_bytes() == kept
    assert kat_cli("report", run, "--overwrite").rc == 0


def test_a_strangers_file_is_left_alone(run, kat_cli):
    write(run / "map.parquet", b"mine")
    assert "nothing says that kat wrote it" in kat_cli("report", run).failed()
    assert (run / "map.parquet").read_bytes() == b"mine"
    assert not (run / "report.html").exists()
    assert kat_cli("report", run, "--out", run / "other.html").rc == 0
    assert (run / "other.map.parquet").is_file()


@pytest.mark.parametrize(
    "name",
    ["density/density_weights.npy", "density/neighbors/distances.npy", "prefixes_all.jsonl", "pair_weights.parquet"],
)
def test_a_damaged_file_is_refused(run, kat_cli, name):
    data = bytearray((run / name).read_bytes())
    data[-3] ^= 1
    (run / name).unlink()
    (run / name).write_bytes(data)
    said = kat_cli("report", run).failed()
    assert name.split("/")[-1] in said
    assert not (run / "report.html").exists()


def test_a_run_ends_with_a_report(kat_cli, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*(pair(f"question {i}") for i in range(12))))
    told = ("run", pairs, "--device", "cpu", "--processes", 1, "--out")
    ran = kat_cli(*told, tmp_path / "run")
    assert ran.rc == 0
    assert f"open {tmp_path / 'run' / 'report.html'} in a browser" in ran.stdout
    assert (tmp_path / "run" / "map.parquet").is_file()
    assert kat_cli("verify", tmp_path / "run").rc == 0
    without = kat_cli(*told, tmp_path / "other", "--no_report")
    assert without.rc == 0
    assert "in a browser" not in without.stdout
    assert not (tmp_path / "other" / "report.html").exists()


@pytest.mark.parametrize("error", [ValueError("odd"), kat.KatError("no room"), MemoryError(), OSError(28, "full")])
def test_a_report_that_fails_is_a_note(kat_cli, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run_stage, "make_report", fail)
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*(pair(f"question {i}") for i in range(12))))
    ran = kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", tmp_path / "run")
    assert ran.rc == 0
    assert "note: no report" in ran.stderr
    assert f"kat report {tmp_path / 'run'}" in ran.stderr
    assert "in a browser" not in ran.stdout
    assert kat_cli("verify", tmp_path / "run").rc == 0


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_without_the_pairs_the_rest_is_told(run, kat_cli, how):
    (run.parent / "pairs.jsonl").unlink()
    if how == "changed":
        write(run.parent / "pairs.jsonl", jsonl(pair("another")))
    ran = kat_cli("report", run)
    assert ran.rc == 0
    assert "what the pairs themselves tell is left out" in ran.stdout
    assert ("changed since" in ran.stdout) == (how == "changed")
    assert "Contradictory preferences are not known" in page_of(run).text


def test_weights_alone_have_a_report(demo_run, kat_cli, tmp_path):
    shutil.copytree(demo_run / "run" / "embeddings", tmp_path / "e")
    assert kat_cli("density", tmp_path / "e", "--out", tmp_path / "d", "--device", "cpu").rc == 0
    ran = kat_cli("report", tmp_path / "d")
    assert ran.rc == 0, ran.stderr
    assert (tmp_path / "d" / "report.html").is_file()
    assert "skipped" in kat_cli("report", tmp_path / "d").stdout
    assert kat_cli("report", tmp_path / "d", "--overwrite").rc == 0
    assert "there are no pair weights yet" in page_of(tmp_path / "d").text


def test_a_topic_that_no_column_has(run, kat_cli):
    said = kat_cli("report", run, "--topic", "nowhere").failed()
    assert "nowhere" in said
    assert not (run / "report.html").exists()


def test_without_umap_the_map_says_so(run, kat_cli, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "umap" else real(name, *a))
    assert kat_cli("report", run).rc == 0
    assert "principal components" in page_of(run).text
    assert "pip install" in page_of(run).text


def test_figures_that_nothing_can_draw_are_refused_first(run, kat_cli, tmp_path, monkeypatch):
    monkeypatch.setattr("kat.stages.report.why_not_drawn", lambda: "matplotlib is not installed. Type: pip install it")
    said = kat_cli("report", run, "--figures", tmp_path / "figures").failed()
    assert "--figures: matplotlib is not installed. Type: pip install it" in said
    assert not (run / "report.html").exists()
    assert not (tmp_path / "figures").exists()


def test_a_page_that_another_version_would_show_otherwise_is_made_again(run, kat_cli, monkeypatch):
    assert kat_cli("report", run).rc == 0
    assert "skipped" in kat_cli("report", run, "--overwrite").stdout
    monkeypatch.setattr("kat.stages.report.page_code", lambda: "0" * 64)
    assert "skipped" not in kat_cli("report", run).stdout


def test_the_hash_of_the_page_follows_its_code(tmp_path, monkeypatch):
    import kat.stages.report_contents as contents

    root = tmp_path / "kat"
    for folder in ("reports", "projection"):
        shutil.copytree(os.path.join(os.path.dirname(kat.__file__), folder), root / folder)
    monkeypatch.setattr(contents.kat, "__file__", str(root / "__init__.py"))
    seen = {contents.page_code()}
    (root / "reports" / "__pycache__").mkdir(exist_ok=True)
    write(root / "reports" / "__pycache__" / "x.pyc", b"compiled")
    assert {contents.page_code()} == seen
    for name in ("reports/html/assets/map.js", "reports/html/assets/page.css", "projection/words.py"):
        write(root / name, (root / name).read_bytes() + b" ")
        seen.add(contents.page_code())
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("density/embeddings_metadata.json", {"cap_hits": -1}),
        ("density/embeddings_metadata.json", {"temperature": "2"}),
        ("density/embeddings_metadata.json", {"weight": [1, 2]}),
        ("pair_weights.stats.json", {"left_out": {"why": "many"}}),
        ("prefixes_all.stats.json", {"bad_rows": None}),
    ],
)
def test_vouched_values_that_cannot_be_are_named(run, kat_cli, name, value):
    path = run / name
    held = read(path) | value
    path.unlink()
    path.write_text(json.dumps(held))
    output = {"pair_weights": run / "pair_weights.parquet", "prefixes_all": run / "prefixes_all.jsonl"}
    vouch(output.get(path.name.partition(".")[0], run / "density"))
    said = kat_cli("report", run).failed()
    assert path.name in said
    assert next(iter(value)) in said
    assert not (run / "report.html").exists()


def test_hostile_texts_are_shown_as_text(kat_cli, tmp_path):
    rows = [pair(text, f"{text[:99]} yes", "no") for text in HOSTILE] + [pair(f"question {i}") for i in range(9)]
    rows.append({"prompt": 7, "chosen": HOSTILE[0], "rejected": HOSTILE[1]})
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*rows))
    ran = kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", tmp_path / "run", "--max_bad_rows", 1)
    assert ran.rc == 0, ran.stderr
    content = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert len(content) < 2_000_000
    for harm in ("<script>alert", "<img src=x", "\x00", "\x1b"):
        assert harm not in content
    page = Tables(content)
    cells = [cell for rows in page.tables.values() for row in rows for cell in row if isinstance(cell, str)]
    assert any("<img src=x onerror=alert(2)>" in cell for cell in cells)


def test_figures_are_files(run, kat_cli, tmp_path):
    ran = kat_cli("report", run, "--figures", tmp_path / "figures")
    assert ran.rc == 0, ran.stderr
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"map.png", "map.svg", "weights.png", "weights.svg", "ess.png", "pays_bin.svg"} <= names
    first = {name: (tmp_path / "figures" / name).read_bytes() for name in names}
    assert first["map.png"].startswith(b"\x89PNG")
    assert b"<svg" in first["map.svg"][:1000]
    assert "skipped" in kat_cli("report", run, "--figures", tmp_path / "figures").stdout
    assert kat_cli("report", run, "--figures", tmp_path / "figures", "--overwrite").rc == 0
    assert {name: (tmp_path / "figures" / name).read_bytes() for name in names} == first


def test_a_model_that_was_evaluated_is_shown_once_and_needs_no_other(run, kat_cli, monkeypatch):
    told = ("--model", "minilm", "--train", "head", "--max_steps", "2", "--device", "cpu")
    assert kat_cli("train-rm", run, *told).rc == 0
    assert kat_cli("train-rm", run, *told, "--pair_weights", "uniform").rc == 0
    assert kat_cli("report", run).rc == 0
    advice = f"kat evaluate-rm {run / 'rm' / 'validation_scores.jsonl'}"
    assert advice in page_of(run).text
    assert series_of(run) == {"rm", "rm.uniform"}
    scores = run / "rm" / "validation_scores.jsonl"
    weights = ("--pair_weights", run / "pair_weights.parquet", "--replicates", "50")
    assert kat_cli("evaluate-rm", scores, *weights).rc == 0
    assert kat_cli("report", run).rc == 0
    assert series_of(run) == {"rm", "rm.uniform"}
    assert advice not in page_of(run).text
    both = (scores, run / "rm.uniform" / "validation_scores.jsonl")
    assert kat_cli("evaluate-rm", *both, *weights, "--out", run / "compared").rc == 0
    assert kat_cli("report", run).rc == 0
    assert series_of(run) == {"rm", "rm.uniform"}
    page = page_of(run)
    evaluation = read(run / "compared" / "evaluation.json")["evaluations"][0]
    [rows] = [rows for rows in page.tables.values() if rows and rows[0][:2] == ["model", "pairs that count"]]
    shown = {(row[0], row[1]): row[4] for row in rows[1:]}
    assert shown["rm", "every pair"] == evaluation["all"]["unweighted"]["accuracy"]["value"]
    for b, part in evaluation["bins"].items():
        [value] = [v for (model, name), v in shown.items() if model == "rm" and name.startswith(f"bin {b}")]
        assert value == part["balanced"]["accuracy"]["value"]
    table = pq.read_table(run / "map.parquet").to_pydict()
    known = {one: m for one, m in zip(table["id"], table["reward_margin_of_rm"], strict=True) if m is not None}
    margins = {}
    for line in scores.read_text().splitlines():
        row = json.loads(line)
        margins.setdefault(row["opening_id"], []).append(row["chosen"] - row["rejected"])
    assert known == pytest.approx({one: np.mean(values) for one, values in margins.items()}, abs=1e-6)


def test_a_policy_of_dpo_is_shown(run, kat_cli, tmp_path):
    from making_training import tiny_chat_model

    tiny = tiny_chat_model(tmp_path / "tiny", causal=True)
    told = ("--policy", tiny, "--max_steps", "2", "--device", "cpu", "--max_len", "4096", "--precision", "float32")
    ran = kat_cli("train-dpo", run, *told)
    assert ran.rc == 0, ran.stderr
    assert kat_cli("report", run).rc == 0
    assert series_of(run) == {"dpo"}
    page = page_of(run)
    assert "No model was trained or evaluated" not in page.text
    assert any(rows and rows[0][0] == "DPO policy" for rows in page.tables.values())


def series_of(run):
    """The models of the table of accuracies."""
    [rows] = [rows for rows in page_of(run).tables.values() if rows and rows[0][:2] == ["model", "pairs that count"]]
    return {row[0] for row in rows[1:]}


@pytest.mark.parametrize("new", ["export", "control", "log"])
def test_whatever_is_new_makes_another_report(run, kat_cli, new):
    assert kat_cli("report", run).rc == 0
    before = page_of(run).text
    advice = f"kat export-weights {run / 'pair_weights.parquet'} --to trl"
    assert advice in before
    if new == "export":
        assert kat_cli("export-weights", run, "--to", "jsonl", "--out", run / "trl").rc == 0
    elif new == "control":
        assert kat_cli("weigh-pairs", run, "--control", "permuted").rc == 0
    else:
        (run / "log.jsonl").unlink()
    ran = kat_cli("report", run)
    assert (ran.rc, "skipped" in ran.stdout) == (0, False)
    after = page_of(run).text
    assert before != after
    assert (advice in after) == (new != "export")
    assert "skipped" in kat_cli("report", run).stdout


def test_another_runs_report_is_not_replaced(run, kat_cli):
    shutil.copytree(run, run.parent / "other")
    assert kat_cli("report", run).rc == 0
    kept = (run / "report.html").read_bytes()
    said = kat_cli("report", run.parent / "other", "--out", run / "report.html").failed()
    assert "--overwrite" in said
    assert (run / "report.html").read_bytes() == kept


@pytest.mark.parametrize("name", ["verify1", "a b", "$x'"])
def test_commands_of_a_run_of_any_name(run, kat_cli, name):
    named = run.rename(run.with_name(name))
    assert kat_cli("report", named).rc == 0
    text = page_of(named).text
    assert text.count(f"kat train-rm {shell_word(str(named))}") == 2  # what to do next, and under models


def test_a_run_whose_name_is_no_utf_8(run, kat_cli):
    named = run.with_name(os.fsdecode(b"lat\xefn"))
    try:
        run.rename(named)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    ran = kat_cli("report", named)
    assert ran.rc == 0, ran.stderr
    assert (named / "report.html").is_file()


def test_the_same_bytes_whatever_python_hashes(kat_cli, tmp_path):
    """Python salts its hashes, and what is shown of reversed preferences goes by hashes."""
    rows = [pair(f"question {i}", "yes", "no") for i in range(12)]
    rows += [pair(f"question {i}", "no", "yes") for i in range(6)]
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*rows))
    assert kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", tmp_path / "run", "--no_report").rc == 0
    written = set()
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-m", "kat.cli", "report", str(tmp_path / "run"), "--overwrite"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        written.add((tmp_path / "run" / "report.html").read_bytes() + (tmp_path / "run" / "map.parquet").read_bytes())
    assert len(written) == 1
    assert "12 pairs of 18 are reversed by another pair" in page_of(tmp_path / "run").text


@pytest.mark.parametrize("options", [("--unit", "context"), ("--temperature", "2"), ("--metric", "euclidean")])
def test_runs_of_every_kind_have_a_report(kat_cli, tmp_path, options):
    rows = [pair(f"question {i // 3}", f"answer {i}", "no") for i in range(30)]
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*rows))
    ran = kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", tmp_path / "run", *options)
    assert ran.rc == 0
    assert "no report" not in ran.stderr, ran.stderr
    text = page_of(tmp_path / "run").text
    assert ("floor asked for" in text) == (options[0] != "--temperature")
    assert ("T given" in text) == (options[0] == "--temperature")


@pytest.mark.parametrize("value", [np.nan, np.inf, -5.0])
@pytest.mark.parametrize("name", ["density_weights.npy", "log_density.npy"])
def test_vouched_arrays_that_cannot_be_are_refused(run, kat_cli, name, value):
    if (name, value) == ("log_density.npy", -5.0):
        return  # a density like any other
    path = run / "density" / name
    values = np.load(path)
    values[3] = value
    path.unlink()
    np.save(path, values)
    vouch(run / "density")
    assert name in kat_cli("report", run).failed()


def test_contexts_are_called_contexts(kat_cli, tmp_path):
    rows = []
    for i in range(48):
        after = (turn("assistant", "Hello!"), turn("user", f"Question {i // 2} of {i % 5}?"))
        rows.append(pair(f"Hi {i % 4}", *(("yes", "no") if i % 2 else ("no", "yes")), after=after, id=f"p{i}"))
    pairs, run, figures = write(tmp_path / "pairs.jsonl", jsonl(*rows)), tmp_path / "run", tmp_path / "figures"
    ran = kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", run, "--unit", "context", "--no_report")
    assert ran.rc == 0, ran.stderr
    for seen in (ran, kat_cli("weigh-pairs", run)):
        assert "opening" not in seen.stdout.replace("--split opening", ""), seen.stdout
    rewards = [
        {"pair_id": one["pair_id"], "chosen": 1.0, "rejected": i % 3}
        for i, one in enumerate(pq.read_table(run / "pair_weights.parquet").to_pylist())
    ]
    scores = write(run / "scores.jsonl", jsonl(*rewards))
    weighed = ("--pair_weights", run / "pair_weights.parquet", "--split", "all", "--replicates", 50)
    ran = kat_cli("evaluate-rm", scores, *weighed, "--out", run / "evaluation")
    assert ran.rc == 0, ran.stderr
    assert "every context" in ran.stdout
    assert "opening" not in ran.stdout, ran.stdout
    ran = kat_cli("report", run, "--figures", figures)
    assert ran.rc == 0, ran.stderr
    assert "48 contexts" in ran.stdout
    page = (run / "report.html").read_text()
    shown = page.partition("</style>")[2].rpartition("<script>")[0]  # what stands in style and script is no text
    named = re.findall(r".{30}opening.{30}", shown, re.IGNORECASE)
    assert not named, named
    assert "Contexts on the map" in shown
    assert '"unit": ["context", "contexts"]' in shown  # what the map's texts are made of
    for file in figures.glob("*.svg"):
        assert "opening" not in file.read_text(), file
    assert "context" in (figures / "weights.svg").read_text()


def test_a_single_opening_has_a_report(kat_cli, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", jsonl(pair("question")))
    ran = kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", tmp_path / "run")
    if ran.rc == 0:  # one opening has no neighbours; where that is no error, its report is none either
        assert "no report" not in ran.stderr, ran.stderr
        assert "there is only 1 text." in ran.stdout


@pytest.mark.parametrize("column", ["weight", "id", "text", "region", "source", "neighbors", "漢字", "a b"])
def test_a_topic_may_have_any_name(kat_cli, tmp_path, column):
    rows = [pair(f"question {i // 2}") | ({column: "left"} if i % 4 else {}) for i in range(40)]
    rows = [row | ({column: "right"} if i % 4 == 1 else {}) for i, row in enumerate(rows)]
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*rows))
    ran = kat_cli("run", pairs, "--device", "cpu", "--processes", 1, "--out", tmp_path / "run")
    if ran.rc:  # a column of another meaning to who reads pairs
        return
    ran = kat_cli("report", tmp_path / "run", "--topic", column)
    assert ran.rc == 0, ran.stderr
    table = pq.read_table(tmp_path / "run" / "map.parquet").to_pydict()
    weights = np.load(tmp_path / "run" / "density" / "density_weights.npy")
    assert table["weight"] == pytest.approx(weights.tolist())
    topics = [values for values in table.values() if "(several)" in values]  # a column "source" is the source too
    assert len(topics) == 1 + (column == "source")
    assert all(set(values) <= {"(several)", "left", "right", "", None} for values in topics)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prefixes_all.stats.json", "prefixes_all.stats.json is missing, which kat wrote"),
        ("pair_weights.stats.json", "pair_weights.stats.json is missing, which kat wrote"),
        ("prefixes_all.jsonl.manifest.json", "prefixes_all.jsonl has no manifest"),
        ("pair_weights.parquet.manifest.json", "pair_weights.parquet has no manifest"),
        ("embeddings/manifest.json", "embeddings has no manifest"),
        ("pair_weights.parquet", "pair_weights.parquet is not there, and its manifest is"),
    ],
)
def test_what_is_missing_is_missed(run, kat_cli, name, said):
    (run / name).unlink()
    assert said in kat_cli("report", run).failed()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["prefixes_all.stats.json", "pair_weights.stats.json"])
def test_counts_that_were_changed_are_refused(run, kat_cli, name):
    counts = read(run / name)
    counts["pairs"] += 1
    (run / name).unlink()
    (run / name).write_text(json.dumps(counts, indent=2))
    assert f"{name} is not what kat" in kat_cli("report", run).failed()


@pytest.mark.parametrize(
    "change", [lambda b: b.replace(b"}", b"] ", 1), lambda b: b.replace(b"line", b"lime"), lambda b: b[:-9]]
)
def test_bad_rows_that_were_changed_are_refused(kat_cli, tmp_path, change):
    rows = [pair(f"question {i}") for i in range(9)] + [{"prompt": 7}, {"prompt": 8}]
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*rows))
    told = ("run", pairs, "--device", "cpu", "--processes", 1, "--max_bad_rows", 2, "--out", tmp_path / "run")
    assert kat_cli(*told).rc == 0
    assert "2 bad rows set aside" in page_of(tmp_path / "run").text
    path = tmp_path / "run" / "prefixes_all.jsonl.rejected.jsonl"
    path.write_bytes(change(path.read_bytes()))
    assert path.name in kat_cli("report", tmp_path / "run").failed()
    path.unlink()  # they may be deleted
    assert kat_cli("report", tmp_path / "run").rc == 0
    assert "the file of bad rows is not there" in page_of(tmp_path / "run").text


def test_without_the_prefixes_the_texts_are_told_to_be_missing(run, kat_cli):
    (run / "prefixes_all.jsonl").unlink()
    ran = kat_cli("report", run)
    assert ran.rc == 0
    assert "prefixes_all.jsonl, which was embedded, is not there" in ran.stdout


def test_what_no_manifest_speaks_of_is_told(run, kat_cli):
    write(run / "notes.txt", b"mine")
    write(run / ".kat-lock-rm", b"{}")  # as while a model is trained
    ran = kat_cli("report", run)
    assert ran.rc == 0
    assert "no manifest speaks of notes.txt\n" in ran.stdout
    assert "no manifest speaks of notes.txt" in page_of(run).text


def test_pairs_that_cannot_be_read_are_an_error(run, kat_cli, monkeypatch):
    """Gone is told; a disk that fails is not taken for that."""
    import kat.stages.report_inputs as inputs

    def failing(_):
        raise kat.errors.InputError("pairs.jsonl cannot be read: Input/output error.")

    monkeypatch.setattr(inputs, "input_hash", failing)
    assert "Input/output error" in kat_cli("report", run).failed()


@pytest.mark.parametrize(
    "change", [{"evaluations": []}, {"files": 3}, {"evaluations": [{"all": None}]}, {"split": {}}, {"files": [1]}]
)
def test_a_vouched_file_of_another_form_is_an_error_of_kats(run, kat_cli, change):
    scores = run / "scores.jsonl"
    ids = kat.read_pair_weights(run / "pair_weights.parquet").pair_id.tolist()
    write(scores, jsonl(*({"pair_id": one, "chosen": 1.0, "rejected": float(i % 2)} for i, one in enumerate(ids))))
    told = ("--pair_weights", run / "pair_weights.parquet", "--split", "all", "--replicates", "20", "--out", run / "v")
    assert kat_cli("evaluate-rm", scores, *told).rc == 0
    path = run / "v" / "evaluation.json"
    path.write_text(json.dumps(read(path) | change))
    vouch(run / "v")
    assert "this version" in kat_cli("report", run).failed()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--topic", ""), "topic is empty"),
        (("--topic", "prefix"), "prefix, which --topic names, is no column of single values"),
        (("--out", "r.txt"), "give it a name that ends in .html"),
    ],
)
def test_options_that_cannot_be(run, kat_cli, options, said, tmp_path):
    options = [tmp_path / one if one == "r.txt" else one for one in options]
    assert said in kat_cli("report", run, *options).failed()


def test_nothing_is_advised_that_is_no_option(run, kat_cli):
    (run.parent / "pairs.jsonl").unlink()
    assert "--pairs_path" not in kat_cli("report", run).stdout
