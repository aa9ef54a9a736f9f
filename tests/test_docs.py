"""The documents run: every console line and every Python block of the README and the docs, in one folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """One folder in which the documents' examples follow each other."""
    return tmp_path_factory.mktemp("docs")


def run_blocks(document: Path, folder: Path) -> int:
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    for kind, body in blocks:
        commands = [[sys.executable, "-c", body]] if kind == "python" else map(command, body.strip().splitlines())
        for line in commands:
            done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{document.name}: {line}\n{done.stdout}{done.stderr}"
    return len(blocks)


def command(line: str) -> list[str]:
    """A `$ …` line as a subprocess of this very Python."""
    words = shlex.split(line.removeprefix("$ "))
    assert line.startswith("$ ")
    assert words[0] in ("kat", "python"), line
    return [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", "kat.cli", *words[1:]]


# The README's run is read by the others.
DOCUMENTS = [
    "README.md",
    "docs/pair-weights.md",
    "docs/evaluation.md",
    "docs/integrations.md",
    "docs/models.md",
    "docs/tutorial.md",
    "docs/training.md",
    "docs/how-to.md",
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_examples_run(name, workshop):
    assert run_blocks(ROOT / name, workshop) > 0


def test_readme_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "install"):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_links_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
