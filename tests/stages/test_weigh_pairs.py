"""`kat weigh-pairs` on a demo run: what it writes, what it refuses, and that it starts from the right pairs."""

import json
import re
import shutil

import numpy as np
import pytest
from making import vouch

import kat


@pytest.fixture
def run(demo_run, tmp_path):
    """A copy of it to change."""
    for path in demo_run.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / path.name)
    return tmp_path / "run"


def test_a_run_becomes_pair_weights(run, kat_cli):
    ran = kat_cli("weigh-pairs", run, "--validation_share", 0.2)
    assert ran.rc == 0, ran.stderr
    found = kat.read_pair_weights(run / "pair_weights.parquet")
    pairs = list(kat.read_pairs(run.parent / "pairs.jsonl"))
    assert found.pair_id.tolist() == [p.id for p in pairs]
    assert found.opening_id.tolist() == [p.prefix.id for p in pairs]
    weights = kat.load_density_mapping(run / "prefixes_all.jsonl", run / "density" / "density_weights.npy")
    assert found.w == pytest.approx([weights[p.prefix.id] for p in pairs])
    stats = json.loads((run / "pair_weights.stats.json").read_text())
    assert stats["weights"]["pairs"] == (found.split == "train").sum()
    assert stats["split"]["validation"]["pairs"] == (found.split == "validation").sum() > 0
    assert np.nanmean(found.v) == pytest.approx(1)
    heaviest = stats["heaviest"][0]
    assert heaviest["v"] == pytest.approx(np.nanmax(found.v))
    opening = next(p.prefix.opening for p in pairs if p.prefix.id == heaviest["id"])
    assert heaviest["id"] in ran.stdout
    assert " ".join(opening.split())[:40] in ran.stdout
    for name in ("near-duplicates", "effective sample size", "rarest", "mean 1", "pair_weights.parquet"):
        assert name in ran.stdout
    again = kat_cli("weigh-pairs", run, "--validation_share", 0.2)
    assert "skipped" in again.stdout
    other = kat_cli("weigh-pairs", run)
    assert other.rc == 2
    assert "validation_share = 0.2, not 0.1" in other.stderr


def test_groups_are_by_text_unless_a_cosine_is_given(run, kat_cli):
    ran = kat_cli("weigh-pairs", run)
    assert "share 80% of their text" in ran.stdout
    assert "WARNING  too few validation pairs to compare density bins" in ran.stdout  # some 12 each
    stats = json.loads((run / "pair_weights.stats.json").read_text())
    assert (stats["split"]["group_cosine"], stats["split"]["group_jaccard"]) == (None, 0.8)
    (warning,) = stats["warnings"]
    assert warning in ran.stdout
    ran = kat_cli("weigh-pairs", run, "--group_cosine", 0.2)
    assert "group_cosine = None, not 0.2" in ran.stderr
    ran = kat_cli("weigh-pairs", run, "--group_cosine", 0.2, "--split", "opening", "--overwrite")
    assert ran.rc == 0, ran.stderr
    assert "groups at cosine 0.2" in ran.stdout
    assert "cosine 0.2 is low for this encoder" in ran.stdout
    stats = json.loads((run / "pair_weights.stats.json").read_text())
    assert stats["split"]["group_cosine"] == 0.2
    assert len(stats["warnings"]) == 2
    assert kat_cli("verify", run).rc == 0


def test_controls_stand_beside_the_weights(run, kat_cli):
    kat_cli("weigh-pairs", run)
    plain = kat.read_pair_weights(run / "pair_weights.parquet")
    for control in ("uniform", "permuted", "multiplicity", "length"):
        multiplicity = "sqrt" if control == "multiplicity" else "pair"
        ran = kat_cli("weigh-pairs", run, "--control", control, "--multiplicity", multiplicity)
        assert f"CONTROL {control}" in ran.stdout
        other = kat.read_pair_weights(run / f"pair_weights.{control}.parquet")
        assert other.split.tolist() == plain.split.tolist()
        assert not np.array_equal(other.v, plain.v, equal_nan=True)


def test_the_pairs_are_those_of_the_run(run, kat_cli):
    moved = run.parent.rename(run.parent.with_name(run.parent.name + "-moved")) / "run"
    assert kat_cli("weigh-pairs", moved).rc == 0  # both moved together
    pairs = moved.parent / "pairs.jsonl"
    with pairs.open("ab") as file:
        file.write(pairs.read_bytes().splitlines()[0] + b"\n")
    assert "is not what kat demo-data wrote" in kat_cli("weigh-pairs", moved, "--pairs_path", pairs).failed()
    vouch(pairs)
    ran = kat_cli("weigh-pairs", moved, "--overwrite")
    assert ran.rc == 2
    assert "changed since" in ran.stderr
    ran = kat_cli("weigh-pairs", moved, "--overwrite", "--pairs_path", pairs)
    assert ran.rc == 0  # said to be right
    assert "exact duplicates           1" in ran.stdout
    assert '"#2"' in ran.stdout
    pairs.unlink()
    ran = kat_cli("weigh-pairs", moved, "--overwrite")
    assert ran.rc == 2
    assert "is not there; name the pairs with --pairs_path" in ran.stderr


def test_other_folders_and_files(run, kat_cli, tmp_path):
    assert "holds no weights. Make them with: kat run" in kat_cli("weigh-pairs", tmp_path / "none").stderr
    assert kat_cli("weigh-pairs", run / "density").rc == 0  # its manifest names the prefixes, and theirs the pairs
    lone = shutil.copytree(run / "density", tmp_path / "lone")
    assert "name them with --pairs_path" in kat_cli("weigh-pairs", lone).stderr
    ran = kat_cli(
        "weigh-pairs", run / "density", "--pairs_path", run.parent / "pairs.jsonl", "--out", tmp_path / "o.parquet"
    )
    assert ran.rc == 0
    assert len(kat.read_pair_weights(tmp_path / "o.parquet")) == 600
    assert "give it a name that ends in .parquet" in kat_cli("weigh-pairs", run, "--out", tmp_path / "o.csv").stderr
    for option, value in (("--validation_share", 1.5), ("--group_cosine", -1), ("--cap", 0.5), ("--split", "pair")):
        ran = kat_cli("weigh-pairs", run, option, value)
        assert ran.rc == 2, option
        assert option.strip("-") in ran.stderr.replace("-", "_")
    ran = kat_cli("weigh-pairs", run, "--control", "multiplicity", "--multiplicity", "pair")
    assert "give --multiplicity sqrt or opening" in ran.stderr


def test_an_interrupted_run_leaves_nothing(run, kat_cli, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kat.stages.weigh_pairs.write_pair_weights", stop)
    ran = kat_cli("weigh-pairs", run)
    assert ran.rc == 130
    assert not list(run.glob("pair_weights*"))
    assert not list(run.glob(".kat*"))


def test_verify_finds_what_is_wrong_with_pair_weights(run, kat_cli):
    import pyarrow as pa
    import pyarrow.parquet as pq

    kat_cli("weigh-pairs", run)
    ran = kat_cli("verify", run)
    assert ran.rc == 0, ran.stderr
    assert "v has mean 1, m is counted, no opening is on both sides" in ran.stdout
    path = run / "pair_weights.parquet"
    table = pq.read_table(path)

    def changed(name, change) -> str:
        values = table[name].to_pylist()
        change(values)
        place = table.column_names.index(name)
        pq.write_table(table.set_column(place, name, pa.array(values, table.schema.field(name).type)), path)
        ran = kat_cli("verify", run)
        assert ran.rc == 1
        return ran.stderr

    train = table["split"].to_pylist().index("train")
    other = table["split"].to_pylist().index("validation")
    assert "the mean of v" in changed("v", lambda v: v.__setitem__(train, v[train] * 2))
    assert f"row {train} (pair " in changed("v", lambda v: v.__setitem__(train, -1.0))
    assert f"row {other} (pair " in changed("v", lambda v: v.__setitem__(other, 1.0))
    assert "1 pairs have an m" in changed("m", lambda m: m.__setitem__(train, 99))
    assert "values of group train and validate" in changed("group", lambda g: g.__setitem__(train, g[other]))
    assert "does not hash" in changed("src", lambda src: src.__setitem__(0, "elsewhere"))


def test_bad_rows_that_the_run_was_allowed_are_counted_again(demo_run, tmp_path, kat_cli):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes((demo_run / "pairs.jsonl").read_bytes() + b"{broken\n")
    assert kat_cli("run", pairs, "--out", tmp_path / "run", "--device", "cpu", "--max_bad_rows", 1).rc == 0
    ran = kat_cli("weigh-pairs", tmp_path / "run")
    assert ran.rc == 0, ran.stderr
    assert "rejected       1 bad rows" in ran.stdout
    assert b"broken" in (tmp_path / "run" / "pair_weights.parquet.rejected.jsonl").read_bytes()
    other = kat_cli("weigh-pairs", tmp_path / "run", "--pairs_path", pairs, "--out", tmp_path / "o.parquet")
    assert "1 row is unusable and 0 allowed" in other.stderr
    assert not list(tmp_path.glob("o.*"))


def test_columns_of_the_pairs_make_strata_and_reports(run, kat_cli):
    pairs = run.parent / "pairs.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"task": "chat" if i % 4 else "code", "src": f"s{i % 3}"}
    other = run.parent / "labelled.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ("weigh-pairs", run, "--pairs_path", other, "--overwrite")
    ran = kat_cli(*told, "--task", "task", "--within", "src", "--blend", 1)
    assert ran.rc == 0, ran.stderr
    assert "blend 1 of w kept within each src, multiplicity pair" in ran.stdout
    assert re.search(r"\n  task +pairs +of pairs +of weight +mean v\n  \w", ran.stdout)
    table = kat.read_pair_weights(run / "pair_weights.parquet")
    train = table.split == "train"
    for source in ("s0", "s1", "s2"):
        assert table.v[train & (table.src == source)].mean() == pytest.approx(1, abs=1e-6)
    stats = json.loads((run / "pair_weights.stats.json").read_text())
    assert {one["value"] for one in stats["pays"]["task"]} == {"chat", "code"}
    ran = kat_cli(*told, "--groups", "task", "--blend", 1)
    assert "of 1 / the share of each task to the power" in ran.stdout
    ran = kat_cli(*told, "--smooth", "cluster", "--clusters", 6)
    assert "blend 0.25 of mean w of each cluster" in ran.stdout
    assert set(kat.read_pair_weights(run / "pair_weights.parquet").cluster.tolist()) <= set(range(6))
    ran = kat_cli(*told, "--smooth", "cluster", "--clusters", 6, "--control", "permuted", "--control_seed", 3)
    assert "… of what was permuted" in ran.stdout
    assert "has no column colour; its columns are" in kat_cli(*told, "--groups", "colour").stderr
    assert "smooth and within are both src" in kat_cli(*told, "--smooth", "src", "--within", "src").stderr
    assert "blend is 2" in kat_cli(*told, "--blend", 2).stderr


def test_a_temperature_that_ended_at_its_limit_is_said(run, kat_cli):
    assert "--max_temperature" not in kat_cli("weigh-pairs", run).stdout
    path = run / "density" / "embeddings_metadata.json"
    made = json.loads(path.read_text()) | {"temperature_bound": "max_temperature", "effective_sample_share": 0.8}
    path.write_text(json.dumps(made))
    refused = kat_cli("weigh-pairs", run, "--seed", 1, "--overwrite").failed()
    assert f"{path.name} is not what kat density wrote" in refused
    vouch(run / "density")
    ran = kat_cli("weigh-pairs", run, "--overwrite", "--seed", 1)
    assert "the density weights ended at --max_temperature" in ran.stdout
    assert "effective sample size of 80% of the openings, above the floor of 50%" in ran.stdout
