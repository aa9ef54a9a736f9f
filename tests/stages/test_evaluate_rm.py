"""`kat evaluate-rm`: joined by pair id, judged on the split, written whole."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import jsonl, write

from kat.evaluation.evaluate import evaluate
from kat.evaluation.pairs import EvalPairs
from kat.run_folder import evaluation_path

N = 240


@pytest.fixture
def table(tmp_path):
    """A file of pair weights; a quarter of the openings validate, some pairs are left out."""
    rng = np.random.default_rng(0)
    opening = rng.integers(0, 60, N)
    split = np.where(opening % 4 == 0, "validation", "train").astype(object)
    out = rng.random(N) < 0.05
    columns = {
        "pair_id": [f"p{i}" for i in range(N)],
        "row": range(1, N + 1),
        "opening_id": [f"o{i}" for i in opening],
        "src": [f"s{i % 2}" for i in range(N)],
        "m": [1] * N,
        "log_density": [0.0] * N,
        "w": [1.0] * N,
        "multiplicity_factor": [1.0] * N,
        "v": [1.0] * N,
        "split": [None if o else s for o, s in zip(out, split, strict=True)],
        "group": opening.tolist(),
        "train_log_density": [0.0] * N,
        "bin": [int(i % 5) for i in opening],
        "chosen_chars": rng.integers(1, 50, N).tolist(),
        "rejected_chars": rng.integers(1, 50, N).tolist(),
        "left_out": ["a reason" if o else None for o in out],
    }
    pq.write_table(pa.table(columns), tmp_path / "weights.parquet")
    return columns | {"path": tmp_path / "weights.parquet"}


def scored(path, ids, seed=0, shift=0.5):
    rng = np.random.default_rng(seed)
    rows = [{"pair_id": i, "chosen": float(rng.normal(shift)), "rejected": float(rng.normal())} for i in ids]
    return write(path, jsonl(*rows)), {row["pair_id"]: (row["chosen"], row["rejected"]) for row in rows}


def validating(table) -> list[int]:
    return [i for i in range(N) if table["split"][i] == "validation"]


def test_the_validation_pairs_are_judged_by_their_ids(table, tmp_path, kat_cli):
    order = np.random.default_rng(3).permutation(N)
    path, rewards = scored(tmp_path / "a.jsonl", [f"p{i}" for i in order])
    ran = kat_cli("evaluate-rm", path, "--pair_weights", table["path"], "--replicates", 200)
    assert ran.rc == 0, ran.stderr
    found = json.loads((tmp_path / "a.evaluation" / "evaluation.json").read_text())
    rows = validating(table)
    pairs = EvalPairs(
        *([table[name][i] for i in rows] for name in ("pair_id", "opening_id", "src")),
        *(np.asarray([table[name][i] for i in rows]) for name in ("bin", "chosen_chars", "rejected_chars")),
    )
    chosen, rejected = (np.asarray([rewards[f"p{i}"][k] for i in rows]) for k in (0, 1))
    wanted = json.loads(json.dumps(evaluate(pairs, chosen, rejected, replicates=200).as_dict()))
    assert found["evaluations"] == [wanted]
    assert (tmp_path / "a.evaluation" / "evaluation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for word in ("every pair", "every opening", "every density bin", "bin 0, rarest", "s1", "detectable", "longer"):
        assert word in ran.stdout
    accuracy = 100 * wanted["all"]["unweighted"]["accuracy"]["value"]
    assert f"{accuracy:.1f}%" in ran.stdout
    assert "skipped" in kat_cli("evaluate-rm", path, "--pair_weights", table["path"], "--replicates", 200).stdout
    assert "--overwrite" in kat_cli("evaluate-rm", path, "--pair_weights", table["path"], "--replicates", 300).stderr


def test_a_report_says_who_paid_for_the_weights(table, tmp_path, kat_cli):
    columns = {name: values for name, values in table.items() if name != "path"}
    columns["v"] = [1.5 if b == 0 else 0.875 for b in columns["bin"]]
    pq.write_table(pa.table(columns), tmp_path / "uneven.parquet")
    path, _ = scored(tmp_path / "a.jsonl", [f"p{i}" for i in range(N)])
    even = kat_cli("evaluate-rm", path, "--pair_weights", table["path"], "--replicates", 50)
    assert "of weight" not in even.stdout
    ran = kat_cli(
        "evaluate-rm", path, "--pair_weights", tmp_path / "uneven.parquet", "--replicates", 50, "--out", tmp_path / "e"
    )
    assert ran.rc == 0, ran.stderr
    assert "of weight" in ran.stdout
    pays = json.loads((tmp_path / "e" / "evaluation.json").read_text())["pays"]
    trains = [i for i in range(N) if table["split"][i] == "train"]
    rare = sum(columns["v"][i] for i in trains if table["bin"][i] == 0) / sum(columns["v"][i] for i in trains)
    assert pays["bin"][-1] == {
        "value": "bin 0",
        "pairs": sum(table["bin"][i] == 0 for i in trains),
        "share_of_pairs": pytest.approx(sum(table["bin"][i] == 0 for i in trains) / len(trains)),
        "share_of_weight": pytest.approx(rare),
    }


def test_two_models_are_compared_in_the_order_given(table, tmp_path, kat_cli):
    ids = [f"p{i}" for i in range(N)]
    better, _ = scored(tmp_path / "better.jsonl", ids, 1, 2.0)
    worse, _ = scored(tmp_path / "worse.jsonl", ids[::-1], 2, -1.0)
    ran = kat_cli("evaluate-rm", better, worse, "--pair_weights", table["path"], "--out", tmp_path / "both")
    found = json.loads((tmp_path / "both" / "evaluation.json").read_text())
    one, other = (e["all"]["unweighted"]["accuracy"]["value"] for e in found["evaluations"])
    difference = found["comparison"]["all"]["unweighted"]["accuracy"]
    assert difference["difference"] == pytest.approx(one - other)
    assert difference["difference"] > 0.3
    assert difference["p"] < 0.001
    assert "accuracy of better.jsonl minus worse.jsonl" in ran.stdout
    back = kat_cli("evaluate-rm", worse, better, "--pair_weights", table["path"])
    assert back.rc == 0
    again = json.loads((tmp_path / "worse-better.evaluation" / "evaluation.json").read_text())
    assert again["comparison"]["all"]["unweighted"]["accuracy"]["difference"] == pytest.approx(other - one)


def test_what_is_missing_is_said(table, tmp_path, kat_cli):
    rows = validating(table)
    path, _ = scored(tmp_path / "a.jsonl", [f"p{i}" for i in rows[1:]])
    how = ("--pair_weights", table["path"])
    ran = kat_cli("evaluate-rm", path, *how)
    assert f"no rewards for 1 of the {len(rows)} validation pairs, first p{rows[0]}" in ran.failed()
    ran = kat_cli("evaluate-rm", path, *how, "--missing_scores", 1)
    assert "1 pairs have no reward and are left out" in ran.stdout
    ran = kat_cli("evaluate-rm", path, *how, "--split", "train", "--out", tmp_path / "t")
    assert "of the" in ran.failed()
    strange, _ = scored(tmp_path / "strange.jsonl", [*(f"p{i}" for i in rows), "else"])
    assert "1 rewards" in kat_cli("evaluate-rm", strange, *how).failed()
    nameless = write(tmp_path / "n.jsonl", jsonl({"chosen": 1, "rejected": 0}))
    assert "give every row its pair_id" in kat_cli("evaluate-rm", nameless, *how).failed()
    assert "does not exist" in kat_cli("evaluate-rm", path, "--pair_weights", tmp_path / "none.parquet").failed()
    bad = write(tmp_path / "b.jsonl", jsonl({"id": "a", "chosen": 1, "rejected": 0}, "{"))
    assert "b.jsonl:2" in kat_cli("evaluate-rm", bad).failed()
    ran = kat_cli("evaluate-rm", bad, "--max_bad_rows", 1)
    assert "rejected       1 bad rows" in ran.stdout
    assert "No density bins" in ran.stdout
    assert "opening of its own" in ran.stdout
    assert "replicates is 0" in kat_cli("evaluate-rm", bad, "--max_bad_rows", 1, "--replicates", 0).failed()
    assert "expected one, or two" in kat_cli("evaluate-rm", bad, bad, bad).failed()


def test_without_matplotlib_there_is_everything_but_the_figure(table, tmp_path, kat_cli, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    path, _ = scored(tmp_path / "a.jsonl", [f"p{i}" for i in range(N)])
    ran = kat_cli("evaluate-rm", path, "--pair_weights", table["path"], "--out", tmp_path / "e")
    assert ran.rc == 0
    assert "pip install 'matplotlib>=3.8'" in ran.stdout
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["evaluation.json", "manifest.json"]


def test_files_of_one_name_are_told_apart_by_their_folders(table, tmp_path, kat_cli):
    ids = [f"p{i}" for i in range(N)]
    paths = []
    for seed, name in enumerate(("density", "uniform")):
        (tmp_path / name).mkdir()
        paths.append(scored(tmp_path / name / "scores.jsonl", ids, seed)[0])
    out = tmp_path / "compared"
    ran = kat_cli("evaluate-rm", *paths, "--pair_weights", table["path"], "--out", out, "--replicates", 50)
    assert ran.rc == 0, ran.stderr
    assert "accuracy of density/scores.jsonl minus uniform/scores.jsonl" in ran.stdout
    assert json.loads((out / "evaluation.json").read_text())["files"] == [
        "density/scores.jsonl",
        "uniform/scores.jsonl",
    ]


def test_comparisons_with_several_arms_go_to_several_folders(tmp_path):
    """The default place, where the files of all arms have one name."""
    arms = [tmp_path / name / "validation_scores.jsonl" for name in ("dpo", "dpo.uniform", "dpo.permuted")]
    assert evaluation_path(arms[:1]) == tmp_path / "dpo" / "validation_scores.evaluation"
    assert evaluation_path(arms[:2]) == tmp_path / "dpo" / "validation_scores-dpo.uniform.evaluation"
    assert evaluation_path([arms[0], arms[2]]) == tmp_path / "dpo" / "validation_scores-dpo.permuted.evaluation"
    assert evaluation_path([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) == tmp_path / "a-b.evaluation"


def test_a_run_stands_for_its_pair_weights(table, tmp_path, kat_cli):
    path, _ = scored(tmp_path / "a.jsonl", table["pair_id"])
    (tmp_path / "run").mkdir()
    empty = kat_cli("evaluate-rm", path, "--pair_weights", tmp_path / "run")
    assert empty.rc == 2
    assert f"Make it with: kat weigh-pairs {tmp_path / 'run'}" in empty.stderr
    named = table["path"].rename(tmp_path / "run" / "pair_weights.parquet")
    read = []
    for source, out in ((named, "file"), (named.parent, "run_folder")):
        ran = kat_cli("evaluate-rm", path, "--pair_weights", source, "--replicates", 50, "--out", tmp_path / out)
        assert ran.rc == 0, ran.stderr
        read.append((tmp_path / out / "evaluation.json").read_bytes())
    assert read[0] == read[1]


def test_a_model_in_the_place_of_its_rewards_is_told_where_they_are(table, tmp_path, kat_cli):
    (tmp_path / "dpo").mkdir()
    path, _ = scored(tmp_path / "dpo" / "validation_scores.jsonl", table["pair_id"])
    ran = kat_cli("evaluate-rm", tmp_path / "dpo", "--pair_weights", table["path"])
    assert ran.rc == 2
    assert f"Name the rewards in it: {path}" in ran.stderr
