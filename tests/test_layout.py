"""The house: imports go strictly down a floor, doors are thin, and nothing heavy stands at the top of a file."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "kat": 0,  # the version and the lazy names
    "kat.errors": 0,
    "kat.records": 0,
    "kat.artifacts": 1,
    "kat.config": 1,
    "kat.devices": 1,
    "kat.journal": 1,
    "kat.plugins": 1,
    "kat.statistics": 1,
    "kat.data": 2,
    "kat.executors": 2,
    "kat.models": 2,
    "kat.packing": 2,
    "kat.run_folder": 2,
    "kat.embedding": 3,
    "kat.evaluation": 3,
    "kat.neighbors": 3,
    "kat.density": 4,
    "kat.demo": 5,
    "kat.pair_weights": 5,
    "kat.integrations": 6,
    "kat.reports": 6,
    "kat.training": 6,
    "kat.stages": 7,
    "kat.cli": 8,
}
FILES = sorted((ROOT / "kat").rglob("*.py"))
HEAVY = {"torch", "transformers", "pyarrow", "numba", "sklearn", "sentence_transformers", "huggingface_hub", "tqdm"}
HEAVY |= {"matplotlib", "trl", "datasets"}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def room_of(module):
    """`kat.data.rows` stands in the room `kat.data`, and `kat.config` is a room of its own."""
    return ".".join(module.split(".")[:2])


def imported(tree, module):
    """Every module of kat that a file imports, at the top or inside a function, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "kat":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            if (node.module or "").split(".")[0] != "kat":
                continue
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else node.module), node.lineno


def upward(source, module):
    """The imports of a file that do not go down."""
    floor = FLOORS[room_of(module)]
    for target, line in imported(ast.parse(source), module):
        siblings = room_of(target) == room_of(module) and module != "kat"
        if not siblings and not FLOORS[room_of(target)] < floor and target != "kat":
            yield f"{module}:{line} imports {target} (floor {floor} → {FLOORS[room_of(target)]})"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    assert list(upward(path.read_text(encoding="utf-8"), module_of(path))) == []


def test_the_walk_sees_what_it_should():
    assert list(upward("from kat.stages.pipeline import run", "kat.data.rows"))
    assert list(upward("def f():\n    import kat.cli.main", "kat.density.weights"))
    assert list(upward("from kat import pipeline", "kat.reports.console.density"))
    assert list(upward("from kat.embedding import encoder", "kat.density.weights"))  # neighbours on one floor
    assert list(upward("if TYPE_CHECKING:\n    from kat.density.weights import weigh", "kat.data.rows"))
    assert not list(upward("from kat.data.rows import Row\nimport kat", "kat.data.pairs"))
    assert not list(upward("from kat import config\nfrom kat.errors import KatError", "kat.data.rows"))
    assert not list(upward("from kat.cli.main import guarded", "kat.cli.scripts"))  # siblings


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} <= set(FLOORS)


def at_the_top(path):
    """What a file imports when it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_heavy_at_the_top_of_a_file():
    """Compiled kernels need their compiler at the top, so nobody may import them at the top."""
    for path in FILES:
        kernels = path.stem == "kernels"
        heavy = {n for n in at_the_top(path) if n.split(".")[0] in HEAVY - ({"numba"} if kernels else set())}
        heavy |= {n for n in at_the_top(path) if n.startswith("kat.") and n.endswith(".kernels")}
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at the top"


def test_scripts_are_thin_doors_and_no_package():
    scripts = ROOT / "scripts"
    assert not (scripts / "__init__.py").exists()
    names = {p.stem for p in scripts.glob("*.py")}
    assert names >= {
        "kat_make_prefixes",
        "kat_embed",
        "kat_compute_embeddings_offline",
        "kat_train_rm",
        "kat_train_grpo",
    }
    for path in scripts.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 10, path.name
        assert set(re.findall(r"^(?:from|import) (\S+)", source, re.M)) == {"kat.cli.scripts"}, path.name


def test_errors_are_one_tree_drawn_in_the_docstring():
    import kat.errors

    for name, value in vars(kat.errors).items():
        if isinstance(value, type) and value.__module__ == "kat.errors":
            assert issubclass(value, kat.errors.KatError)
            assert re.search(rf"\b{name}\b", kat.errors.__doc__), name
