"""What a command suggests next replaces nothing that another one made, and makes what it says."""

import re
import shlex
import shutil

import pytest

from kat.run_folder import next_to, weigh_again


@pytest.fixture
def made(demo_run, tmp_path):
    shutil.copytree(demo_run, tmp_path / "demo")
    return tmp_path / "demo" / "run"


def suggested(stdout):
    return shlex.split(re.search(r"^next +(kat .*)$", stdout, re.M)[1])[1:]


def test_a_controls_export_has_a_folder_of_its_own(kat_cli, made):
    steps = [suggested(kat_cli("weigh-pairs", made).stdout)]
    steps += [suggested(kat_cli("weigh-pairs", made, "--control", c).stdout) for c in ("uniform", "length")]
    own = kat_cli("weigh-pairs", made, "--out", made / "mine.parquet", "--multiplicity", "pair")
    steps.append(suggested(own.stdout))
    outs = [step[step.index("--out") + 1] for step in steps]
    assert outs == [str(made / name) for name in ("trl", "trl.uniform", "trl.length", "trl.mine")]
    for step in steps[:2]:
        assert kat_cli(*step).rc == 0


def test_suggested_places_differ_where_inputs_do(tmp_path):
    """What is named as usual keeps the usual place."""
    cases = [("a.jsonl", "prefixes_all", "embeddings"), ("b.jsonl", "prefixes_all", "embeddings")]
    cases += [("e.pt", "embeddings", "density"), ("embeddings.a", "embeddings", "density")]
    cases += [("prefixes_all.jsonl", "prefixes_all", "embeddings"), ("embeddings", "embeddings", "density")]
    names = [next_to(tmp_path / name, usual, what).name for name, usual, what in cases]
    assert names == ["embeddings.a", "embeddings.b", "density.e", "density.a", "embeddings", "density"]


def test_a_control_is_made_again_as_that_control(kat_cli, made):
    """Followed to the letter, the remedy mends the control and leaves the real weights as they are."""
    for more in ((), ("--control", "uniform")):
        assert kat_cli("weigh-pairs", made, *more).rc == 0
    real = (made / "pair_weights.parquet").read_bytes()
    control = made / "pair_weights.uniform.parquet"
    whole = control.read_bytes()
    control.unlink()
    said = kat_cli("verify", made).failed(1)
    assert kat_cli(*shlex.split(said.partition("Make it again: kat ")[2])).rc == 0
    assert control.read_bytes() == whole
    assert (made / "pair_weights.parquet").read_bytes() == real
    assert kat_cli("verify", made).rc == 0


def test_how_weights_are_made_again(tmp_path):
    assert weigh_again(tmp_path / "pair_weights.parquet") == f"kat weigh-pairs {tmp_path}"
    assert weigh_again(tmp_path / "pair_weights.length.parquet") == f"kat weigh-pairs {tmp_path} --control length"
    assert weigh_again(tmp_path / "w.parquet") == f"kat weigh-pairs RUN --out {tmp_path / 'w.parquet'}"


def test_export_of_a_control_that_is_missing_names_the_control(kat_cli, made, tmp_path):
    missing = made / "pair_weights.length.parquet"
    said = kat_cli("export-weights", missing, "--to", "trl", "--out", tmp_path / "x").failed()
    assert said.rstrip().endswith(f"kat weigh-pairs {made} --control length")


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_weights_are_not_put_where_nobody_reads_them(kat_cli, made, more):
    """RUN/density holds the weights that every command reads; others in RUN itself would be passed over."""
    files = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    said = kat_cli("density", made / "embeddings", "--out", made, "--k", "5", *more).failed()
    assert f"has its weights in {made / 'density'}" in said
    assert f"kat density {made / 'embeddings'} --out {made / 'density'} --overwrite" in said
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_weights_do_not_replace_embeddings(kat_cli, made, tmp_path, more):
    both = tmp_path / "both"
    shutil.copytree(made / "embeddings", both)
    shutil.copytree(made / "embeddings", both / "embeddings")
    files = {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}
    said = kat_cli("density", both / "embeddings", "--out", both, *more).failed()
    assert "is an output of kat embed" in said
    assert {path: path.read_bytes() for path in both.rglob("*") if path.is_file()} == files
    assert kat_cli(*shlex.split(said.partition("Name a folder of their own: kat ")[2])).rc == 0


def test_weights_may_hold_their_embeddings(kat_cli, made, tmp_path):
    """As the origin's folder does; every command that takes a run reads it."""
    shutil.copytree(made / "embeddings", tmp_path / "w" / "embeddings")
    shutil.copyfile(made / "prefixes_all.jsonl", tmp_path / "prefixes_all.jsonl")
    assert kat_cli("density", tmp_path / "w" / "embeddings", "--out", tmp_path / "w").rc == 0
    assert kat_cli("verify", tmp_path / "w", "--prompts_path", made / "prefixes_all.jsonl").rc == 0
    weigh = kat_cli("weigh-pairs", tmp_path / "w", "--pairs_path", made.parent / "pairs.jsonl")
    assert weigh.rc == 0, weigh.stderr


def test_a_run_names_the_next_steps_of_the_pipeline(kat_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = kat_cli("demo-data", "--out", "data/pairs_all.jsonl", "--pairs", "60").stdout
    assert suggested(made) == ["run", "data/pairs_all.jsonl", "--out", "run"]
    assert suggested(kat_cli("demo-data", "--out", "other/pairs_all.jsonl", "--pairs", "60").stdout)[-1] == "other/run"
    told = kat_cli("run", "data/pairs_all.jsonl", "--out", "run").stdout
    steps = [line.rpartition(": ")[2] for line in told.splitlines() if line.startswith("next ")]
    assert steps[1:4] == ["kat try-weights run", "kat weigh-pairs run", "kat verify run"]
    told = kat_cli(*shlex.split(steps[2])[1:]).stdout
    assert "train on them here: kat train-rm run, or kat train-dpo run" in told
    assert "  one source  " in told
    assert "  one source  " not in kat_cli("weigh-pairs", "run", "--control", "uniform").stdout


@pytest.mark.parametrize("drawn", [True, False])
def test_no_figure_is_named_that_is_not_there(kat_cli, made, monkeypatch, drawn):
    if not drawn:
        monkeypatch.setattr("kat.stages.evaluate_rm.why_not_drawn", lambda: "matplotlib is not installed.")
    (made / "s.jsonl").write_text('{"pair_id": "a", "chosen": 1.0, "rejected": 0.5, "opening_id": "o"}\n')
    told = kat_cli("evaluate-rm", made / "s.jsonl").stdout
    [step] = [line for line in told.splitlines() if line.startswith("next ")]
    assert ("evaluation.png" in step) == drawn == (made / "s.evaluation" / "evaluation.png").exists()
    assert str(made / "s.evaluation" / "evaluation.json") in step
