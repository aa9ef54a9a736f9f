"""A type checker sees the public names with their types, in a user's script and not only in kat itself."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kat

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import numpy as np

import kat

pairs = kat.read_pairs("pairs_all.jsonl", max_bad_rows=0)
prefixes: list[kat.Prefix] = kat.unique_prefixes(pairs)
embeddings: kat.Embeddings = kat.encode(prefixes, model="minilm", device="cpu")
neighbors: kat.Neighbors = kat.find_neighbors(embeddings, k=20, metric="cosine")
density: kat.Density = kat.estimate_density(neighbors)
weights: kat.Weights = kat.weigh(density, ess=0.5, cap=10.0)
values: np.ndarray = weights.values
mapping: dict[str, float] = kat.load_density_mapping("run/prefixes_all.jsonl", "run/density/density_weights.npy")
table: kat.PairWeights = kat.read_pair_weights("run/pair_weights.parquet")
with kat.open_prefixes("run/prefixes_all.jsonl") as opened, kat.Encoder("minilm") as encoder:
    first: kat.Prefix = opened[next(iter(opened))]
    more: kat.Embeddings = encoder.encode([first.opening])
rm = kat.train_reward_model(pairs, weights=table.training_weights(), model="minilm", train="head", epochs=1)
rm.save("rm")
rows: list[dict[str, object]] = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
of_rows: list[kat.Pair] = list(kat.read_pairs(rows, max_bad_rows="all"))
of_column: kat.Embeddings = kat.encode(rows, column="prompt", batch_size=8)
result: kat.WeighedPairs = kat.run(rows, "minilm", pair_weights=True, k=10, blend=0.5)
openings: kat.Weights = result.weights
heavy: kat.Weights = openings[openings.values > 1]
one: dict[str, object] = openings[0]
vectors: np.ndarray = np.asarray(result.embeddings[:10])
axes = heavy.plot()
accuracy: float = rm.score(pairs).accuracy
try:
    reward = kat.load_model("smollm2", kind="reward")
except kat.KatError as error:
    message: str = str(error)
"""
MISTAKES = [
    ("wrong: int = kat.opening_id('x')", "Incompatible types in assignment"),
    ("kat.weigh([1.0, 2.0], caps=3.0)", "Unexpected keyword argument"),
    ("kat.find_neighbors(3, k='20')", "has incompatible type"),
    ("kat.train_reward_model([], weights=1.0)", "has incompatible type"),
    ("kat.nothing()", "has no attribute"),
    ("kat.read_pairs(3)", "has incompatible type"),
    ("kat.run([], pair_weights=3)", "has incompatible type"),
    ("kat.Prefix(1, [])", "has incompatible type"),
    ("kat.weigh([1.0, 2.0])['id']", "Invalid index type"),
]


def check(script, folder):
    path = folder / "script.py"
    path.write_text(script)
    # The configuration of a user who has none; --cache-dir keeps runs of this module quick.
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--cache-dir", folder / "cache", path]
    options = ["--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("typing")


def test_a_users_script_passes(folder):
    assert "Success" in check(SCRIPT, folder)


def test_mistakes_are_found(folder):
    report = check("import kat\n\n" + "\n".join(line for line, _ in MISTAKES), folder)
    for number, (_, message) in enumerate(MISTAKES, 3):
        assert any(f":{number}: error:" in line and message in line for line in report.splitlines()), (number, report)


def pyright(text, folder):
    """What pyright says of a script at its strictest, {line: [messages]}; pyright's lines begin at 0."""
    pytest.importorskip("basedpyright")
    project = folder / "pyright"
    project.mkdir(exist_ok=True)
    (project / "script.py").write_text(text)
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    settings = {"typeCheckingMode": "strict", "extraPaths": paths, "include": ["script.py"]}
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--project", project, "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    said: dict[int, list[str]] = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        said.setdefault(one["range"]["start"]["line"] + 1, []).append(one["message"])
    return said


def test_pyright_passes_a_users_script(folder):
    assert pyright(SCRIPT, folder) == {}


def test_pyright_finds_mistakes(folder):
    said = pyright("import kat\n\n" + "\n".join(line for line, _ in MISTAKES), folder)
    assert set(said) == set(range(3, 3 + len(MISTAKES)))


def test_the_stub_is_the_table():
    """kat/__init__.pyi says of each name what kat/__init__.py does, and speaks of no other."""
    tree = ast.parse((ROOT / "kat" / "__init__.pyi").read_text())
    stub = {alias.asname: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert stub == kat._HOMES
    assert (ROOT / "kat" / "py.typed").exists()
