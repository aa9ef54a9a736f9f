"""`kat try-weights` from end to end: what it writes and says, what it reads again, and what it refuses."""

import json
import shutil

import pytest
from making import vouch
from making_training import tiny_chat_model

import kat
from kat.config import RunOptions
from kat.pair_config import TryOptions
from kat.stages.try_weights import try_weights

FEW = ("--folds", 3, "--seeds", 2, "--permutations", 3, "--replicates", 50, "--device", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of demo pairs of three sources with a column of tasks, and a tiny model that reads their words."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("try")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "240"])
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"src": f"s{i % 3}", "task": "ab"[len(row["prefix"]["messages"][0]["content"]) % 2]}
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, rows[9] | {"id": "again"}, {}])
    )
    vouch(folder / "pairs.jsonl")
    model = tiny_chat_model(folder / "tiny", texts=[json.dumps(row) for row in rows], vocabulary=1500)
    told = ["--model", model, "--device", "cpu", "--max_bad_rows", "1"]
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), *told])
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def ask(folder, kat_cli):
    return lambda *more: kat_cli("try-weights", folder / "run", "--model", folder / "tiny", *FEW, *more)


def read(folder):
    return json.loads((folder / "run" / "try_weights" / "weightings.json").read_text())


def test_every_weighting_is_compared_with_uniform(folder, ask, kat_cli):
    ran = ask()
    assert ran.rc == 0, ran.stderr
    found = read(folder)
    assert [one["name"] for one in found["weightings"]] == [
        "uniform, L2 tuned for the rare",
        "density",
        "blend=0.5",
        "blend=0.25",
        "smooth",
        "within",
    ]
    assert found["flags"]["smooth"] == "--blend 0.25 --smooth cluster"
    for one in found["weightings"]:
        assert {"every pair", "every opening", "bin 0"} <= set(one["gains"])
        assert set(one["sources"]) == {"s0", "s1", "s2"}
        assert (one["permuted"] is None) == one["name"].startswith("uniform")
    assert found["bad_rows"] == 1
    assert "bad rows passed over       1" in ran.stdout
    assert found["sentence"] in ran.stdout
    assert "linear heads on" in found["sentence"]
    assert "smooth" in ran.stdout
    assert (folder / "run" / "try_weights" / "weightings.png").stat().st_size > 10_000
    assert "skipped" in ask().stdout
    assert kat_cli("verify", folder / "run" / "try_weights").rc == 0


def test_pairs_that_validate_stay_unseen(folder, ask, kat_cli):
    assert kat_cli("weigh-pairs", folder / "run", "--validation_share", 0.3, "--split", "opening").rc == 0
    assert ask("--weightings", "density").rc == 0
    table = kat.read_pair_weights(folder / "run" / "pair_weights.parquet")
    found = read(folder)
    assert found["pairs"] + sum(found["dropped"].values()) == int((table.split == "train").sum())
    assert [one["name"] for one in found["weightings"]][1:] == ["density"]


def test_prompts_that_lose_their_beginning_are_counted(folder, ask):
    assert ask("--weightings", "density").rc == 0
    assert read(folder)["prompts_cut"] == 0
    ran = ask("--weightings", "density", "--max_len", "60", "--min_prompt", "8", "--overwrite")
    assert ran.rc == 0, ran.stderr
    count = read(folder)["prompts_cut"]
    assert count > 0
    assert f"  prompts cut at their start {count:,}\n" in ran.stdout


def test_features_are_computed_once(folder, ask, monkeypatch):
    assert ask("--weightings", "density").rc == 0
    (kept,) = (folder / "run" / "features").iterdir()
    first = read(folder)

    def refuse(*_):
        raise AssertionError("a feature was computed again")

    monkeypatch.setattr("kat.training.reward.RewardModel.features", refuse)
    monkeypatch.setattr("kat.training.reward.RewardModel.separate_features", refuse)
    shutil.rmtree(folder / "run" / "try_weights")
    assert ask("--weightings", "density").rc == 0
    assert read(folder) == first
    # What a killed run left half done is computed again, and nothing else is.
    (kept / "complete").unlink()
    journal = (kept / "journal").read_text().splitlines(keepends=True)
    (kept / "journal").write_text("".join(journal[:-1]))
    monkeypatch.undo()
    shutil.rmtree(folder / "run" / "try_weights")
    assert ask("--weightings", "density").rc == 0
    assert read(folder) == first


def test_columns_of_the_pairs_name_groups(folder, ask):
    ran = ask("--weightings", "groups=task,within=task,blend=0.5+smooth=task")
    assert ran.rc == 0, ran.stderr
    assert read(folder)["flags"] == {
        "groups=task": "--blend 0.25 --groups task",
        "within=task": "--blend 0.25 --within task",
        "blend=0.5+smooth=task": "--blend 0.5 --smooth task",
    }
    assert "has no column colour; its columns are" in ask("--weightings", "groups=colour", "--overwrite").stderr


def test_what_cannot_be_tried_is_refused(folder, ask, kat_cli):
    assert "weightings has 'rare'; expected" in ask("--weightings", "rare").stderr
    ran = kat_cli("try-weights", folder / "run", "--model", folder / "tiny", "--folds", 5000)
    assert "groups of near-duplicates and 5000 folds" in ran.stderr
    assert not (folder / "run" / "try_weights" / "weightings.json").exists()
    with (folder / "pairs.jsonl").open("a") as file:
        file.write("\n")
    assert "changed since" in ask().stderr


def test_the_stage_returns_where_it_wrote(folder):
    options = TryOptions(
        model=str(folder / "tiny"), weightings="density", folds=2, seeds=1, permutations=0, replicates=20
    )
    written = try_weights(folder / "run", folder / "other", options, RunOptions(device="cpu"))
    assert written == folder / "other"
    found = json.loads((written / "weightings.json").read_text())
    assert found["weightings"][1]["permuted"] is None


def test_openings_without_a_density_weight_are_counted(folder, ask, monkeypatch):
    from kat.stages import try_weights

    weighed = try_weights.pair_table

    def some_unknown(*told, **more):
        table, facts = weighed(*told, **more)
        return table, facts | {"openings_without_weight": 3}

    monkeypatch.setattr(try_weights, "pair_table", some_unknown)
    ran = ask("--weightings", "density")
    assert ran.rc == 0, ran.stderr
    assert read(folder)["openings_without_weight"] == 3
    assert "  without density weight     3 openings\n" in ran.stdout


def test_pairs_that_no_weight_is_for_are_counted(folder, ask, kat_cli):
    assert kat_cli("weigh-pairs", folder / "run", "--duplicates", "drop").rc == 0
    counted = json.loads((folder / "run" / "pair_weights.stats.json").read_text())["left_out"]
    ran = ask("--weightings", "density")
    assert ran.rc == 0, ran.stderr
    assert read(folder)["left_out"] == counted != {}
    for reason, count in counted.items():
        assert f"  left out                   {count:,} pairs: {reason}\n" in ran.stdout
