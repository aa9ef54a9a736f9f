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


def test_examples_of_policies_run(workshop):
    """Those of docs/grpo.md, with a tiny policy and few steps; the file of rewards is the page's first block."""
    from making_training import tiny_chat_model

    policy = tiny_chat_model(workshop / "tiny", causal=True)
    small = {"max_steps": 1, "batch_size": 2, "num_generations": 2, "max_new_tokens": 4, "fixed_prompts": 1}
    options = [str(part) for name, value in (small | {"policy": policy}).items() for part in (f"--{name}", value)]
    blocks = BLOCK.findall((ROOT / "docs/grpo.md").read_text(encoding="utf-8"))
    files = [body for kind, body in blocks if kind == "python" and body.startswith("# ")]
    assert len(files) == 1
    (workshop / files[0].split(",")[0].removeprefix("# ")).write_text(files[0])
    ran = 0
    for kind, body in blocks:
        if body in files:
            continue
        if kind == "python":
            assert "max_steps=100" in body
            told = ", ".join(f"{name}={value!r}" for name, value in (small | {"policy": policy}).items())
            lines = [[sys.executable, "-c", body.replace("max_steps=100", told)]]
        else:
            lines = [command(line) for line in body.strip().splitlines()]
            # The README made the run, its weights and its reward model.
            lines = [[*line, *options, "--overwrite"] for line in lines if line[3] == "train-grpo"]
        for line in lines:
            done = subprocess.run(line, cwd=workshop, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            ran += 1
    assert ran == 3


def test_examples_of_dpo_run(workshop):
    """Those of docs/dpo.md, with a tiny policy and few steps; the README made the run, its weights and its reward
    model."""
    from making_training import tiny_chat_model

    policy = tiny_chat_model(workshop / "tiny_dpo", causal=True)
    small = {
        "train-dpo": ["--policy", policy, "--max_steps", "1", "--batch_size", "2", "--max_len", "2048"],
        "evaluate-policy": ["--prompts", "1", "--max_new_tokens", "4", "--max_len", "2048"],
        "evaluate-rm": ["--replicates", "50"],
    }
    blocks = BLOCK.findall((ROOT / "docs/dpo.md").read_text(encoding="utf-8"))
    lines = [command(line) for kind, body in blocks if kind == "console" for line in body.strip().splitlines()]
    ran = [[*line, *small[line[3]]] for line in lines if line[3] in small]
    assert len(ran) == 4
    for line in ran:
        done = subprocess.run(line, cwd=workshop, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_readme_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "install"):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_links_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
