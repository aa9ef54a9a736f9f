"""The recipes of docs/extending.md, each on a copy of kat/: its code is put in its place, its lines run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
RECIPES = {part.split("\n", 1)[0]: part for part in TEXT.split("\n## ")[1:]}
PLUGINS = [name for name in RECIPES if name != "A stage"]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.M | re.S)


def code_of(recipe):
    """(path, whether it is added to a file that is there, code) of each block."""
    for kind, body in BLOCK.findall(RECIPES[recipe]):
        if kind == "python":
            head, code = body.split("\n", 1)
            path, _, where = head.removeprefix("# ").partition(", ")
            yield path, where == "at the end", code


def lines_of(recipe):
    return [
        line.removeprefix("$ ")
        for kind, body in BLOCK.findall(RECIPES[recipe])
        if kind == "console"
        for line in body.strip().splitlines()
    ]


@pytest.fixture
def copy(tmp_path, demo_run):
    """A folder with kat/ and scripts/ of its own, and a run."""
    for name in ("kat", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(demo_run / "run", tmp_path / "run")
    shutil.copyfile(demo_run / "pairs.jsonl", tmp_path / "pairs.jsonl")
    return tmp_path


def follow(recipe, folder):
    """Put a recipe's code in its place and run its lines; give what each printed."""
    for path, added, code in code_of(recipe):
        file = folder / path
        assert file.exists() == added, f"{path} is there already" if file.exists() else f"{path} is not there"
        file.write_text(file.read_text(encoding="utf-8") + "\n\n" + code if added else code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1"}
    printed = []
    for line in lines_of(recipe):
        words = shlex.split(line)
        command = [sys.executable, *(["-m", "kat.cli"] if words[0] == "kat" else []), *words[1:]]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        printed.append(done.stdout)
    return printed


def test_there_are_six():
    assert list(RECIPES) == [
        "An estimator", "A format of pairs", "A model source", "A pooling", "An export", "A stage",
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", PLUGINS)
def test_a_plug_in_is_one_new_file(recipe):
    [(path, added, _)] = code_of(recipe)
    assert path.startswith("kat/")
    assert not added


def test_a_stage_is_a_file_and_a_row_in_four():
    files = {path: added for path, added, _ in code_of("A stage")}
    assert files == {
        "kat/config.py": True,
        "kat/run_folder.py": True,
        "kat/reports/console/rank.py": False,
        "kat/stages/rank.py": False,
        "kat/cli/main.py": True,
    }


def test_an_estimator(copy):
    weights, trials = follow("An estimator", copy)
    assert "density        " in weights
    assert '"estimator": "median_distance"' in (copy / "median" / "embeddings_metadata.json").read_text()
    assert "median_distance" in trials


def test_a_format_of_pairs(copy):
    _, printed = follow("A format of pairs", copy)
    assert re.search(r"format +better-worse", printed)
    assert '"content":"Why?"' in (copy / "openings.jsonl").read_text()


def test_a_model_source(copy):
    _, printed = follow("A model source", copy)
    assert "with shelf/small (384 dimensions" in printed


def test_a_pooling(copy):
    follow("A pooling", copy)
    assert '"pooling": "maximum"' in (copy / "largest" / "manifest.json").read_text()


def test_a_new_name_is_a_choice(copy):
    """--help lists a plug-in that nobody imported."""
    [(path, _, code)] = code_of("A pooling")
    (copy / path).write_text(code)
    command = [sys.executable, "-m", "kat.cli", "embed", "--help"]
    done = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert re.search(r"cls,\s+last,\s+maximum,\s+mean", re.sub(r"[│\n ]+", " ", done.stdout)), done.stdout


def test_an_export(copy):
    (copy / "run" / "prefixes_all.jsonl.manifest.json").exists()
    _, printed = follow("An export", copy)
    assert "open table/weights.csv in a spreadsheet" in printed
    assert (copy / "table" / "weights.csv").read_text().startswith("pair_id,weight,split\n")


def test_a_stage(copy):
    first, second, verified = follow("A stage", copy)
    assert first.startswith("rank           5 of ")
    assert second.startswith("rank           skipped: run/ranking.jsonl")
    assert verified.endswith("whole\n")


def test_recipes_pass_lint(copy):
    """What the recipes add is as clean as the rest."""
    for recipe in PLUGINS:
        for path, _, code in code_of(recipe):
            (copy / path).write_text(code)
    shutil.copyfile(ROOT / "pyproject.toml", copy / "pyproject.toml")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "kat"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
