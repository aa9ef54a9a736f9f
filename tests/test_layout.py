"""The structure: imports go strictly down the floors and never in a circle, stages keep one rule, code stays small."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

import kat

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "kat": 0,  # the version and the lazy names
    "kat.errors": 0,
    "kat.terminal": 0,  # the one place that prints
    "kat.panels": 0,
    "kat.array_records": 1,
    "kat.compiled": 1,
    "kat.devices": 1,
    "kat.kernel_cache": 0,
    "kat.folders": 0,
    "kat.digests": 1,
    "kat.locks": 1,
    "kat.parameters": 1,
    "kat.plots": 1,
    "kat.plugins": 1,
    "kat.statistics": 1,
    "kat.artifacts": 2,
    "kat.atomic": 2,
    "kat.config": 2,
    "kat.inputs": 2,
    "kat.records": 2,
    "kat.arrays": 3,
    "kat.evidence_config": 3,
    "kat.executor_config": 3,
    "kat.grpo_config": 3,
    "kat.journal": 3,
    "kat.outputs": 3,
    "kat.pair_config": 3,
    "kat.report_config": 3,
    "kat.places": 3,
    "kat.run_folder": 4,
    "kat.run_log": 5,
    "kat.training_config": 4,
    "kat.data": 5,
    "kat.executors": 5,
    "kat.models": 5,
    "kat.packing": 5,
    "kat.embedding": 6,
    "kat.evaluation": 6,
    "kat.neighbors": 6,
    "kat.density": 7,
    "kat.demo": 8,
    "kat.pair_weights": 8,
    "kat.projection": 8,
    "kat.integrations": 9,
    "kat.pipeline": 9,
    "kat.reports": 9,
    "kat.training": 9,
    "kat.stages": 10,
    "kat.cli": 11,
    "kat.__main__": 12,
}
FILES = sorted((ROOT / "kat").rglob("*.py"))
HEAVY = {"torch", "transformers", "pyarrow", "numba", "sklearn", "sentence_transformers", "huggingface_hub", "tqdm"}
HEAVY |= {"matplotlib", "trl", "datasets", "pandas"}
LIGHT = ("kat.cli", "kat.config", "kat.records", "kat.errors", "kat.artifacts", "kat.data", "kat.stages")
LIGHT = (*LIGHT, "kat.run_folder", "kat.plugins", *kat._HOMES.values())
"""What must load no torch, nor anything else that is slow, by being imported."""
PARTS_OF_STAGES = {
    "contexts",
    "neighbors",
    "pair_report",
    "pair_training",
    "policy_scores",
    "report_contents",
    "report_files",
    "report_inputs",
    "report_models",
    "report_pairs",
    "reward_inputs",
    "run_prompts",
    "shown_outputs",
}
"""Parts of a stage, with manifests and names of their own but no command."""


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def floor_of(module):
    """`kat.data.rows` stands on the floor of `kat.data`, and `kat.config` has one of its own."""
    return FLOORS[".".join(module.split(".")[:2])]


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


def subpackage(module):
    """`kat.data` of `kat.data.rows` and of `kat.data` itself; None for a file directly in kat/."""
    part = ".".join(module.split(".")[:2])
    return part if MODULES.get(part, Path()).name == "__init__.py" and part != "kat" else None


def upward(source, module):
    """The imports of a file that neither go down nor stay inside its subpackage."""
    for target, line in imported(ast.parse(source), module):
        inside = subpackage(module) is not None and subpackage(module) == subpackage(target)
        if not inside and target != "kat" and not floor_of(target) < floor_of(module):
            yield f"{module}:{line} imports {target} (floor {floor_of(module)} → {floor_of(target)})"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert list(upward(MODULES[module].read_text(encoding="utf-8"), module)) == []


def test_the_walk_sees_what_it_should():
    assert list(upward("from kat.stages.run import run", "kat.data.rows"))
    assert list(upward("def f():\n    import kat.cli.main", "kat.density.weights"))
    assert list(upward("from kat.stages import run", "kat.reports.figures"))
    assert list(upward("from kat.embedding import encoder", "kat.neighbors.find"))  # neighbours on one floor
    assert list(upward("from kat.records import Pair", "kat.errors"))  # files directly in kat/ are no siblings
    assert list(upward("if TYPE_CHECKING:\n    from kat.density.weights import weigh", "kat.data.rows"))
    assert not list(upward("from kat.data.rows import Row\nimport kat", "kat.data.pairs"))
    assert not list(upward("from kat import config\nfrom kat.errors import KatError", "kat.data.rows"))
    assert not list(upward("from kat.cli.runner import run_app", "kat.cli.main"))  # siblings


def test_every_module_has_a_floor():
    for module in MODULES:
        floor_of(module)


def circles(graph):
    """Sets of modules that import each other, in however many steps (Kosaraju)."""
    order, seen = [], set()

    def visit(node, edges, out):
        stack = [(node, iter(edges.get(node, ())))]
        seen.add(node)
        while stack:
            targets = stack[-1][1]
            if (target := next((t for t in targets if t not in seen), None)) is None:
                out.append(stack.pop()[0])
            else:
                seen.add(target)
                stack.append((target, iter(edges.get(target, ()))))

    for node in graph:
        if node not in seen:
            visit(node, graph, order)
    back = {}
    for node, targets in graph.items():
        for target in targets:
            back.setdefault(target, set()).add(node)
    seen, found = set(), []
    for node in reversed(order):
        if node not in seen:
            visit(node, back, component := [])
            if len(component) > 1:
                found.append(sorted(component))
    return found


def test_no_import_circles():
    """Imports inside functions count too: a circle that works by luck is a circle."""
    graph = {m: {t for t, _ in imported(tree_of(path), m)} - {m, "kat"} for m, path in MODULES.items()}
    assert circles(graph) == []


def test_circles_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def at_the_top(path):
    """What a file imports when it is imported itself."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_light(module):
    return any(module == light or module.startswith(f"{light}.") for light in LIGHT)


def test_light_modules_import_nothing_heavy(python):
    """What they import, and what that imports in turn: each is loaded in one process, which looks at what came."""
    modules = sorted(filter(is_light, MODULES))
    code = (
        "import importlib, json, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    heavy = sorted({HEAVY!r} & set(sys.modules))\n"
        "    if heavy:\n"
        "        print(json.dumps([module, heavy])); break\n"
        "else:\n"
        "    print('[]')\n"
    )
    ran = python("-c", code)
    assert ran.rc == 0, ran.stderr
    assert json.loads(ran.stdout) == []


def test_no_heavy_import_at_the_top_of_a_light_file():
    for module in filter(is_light, MODULES):
        heavy = {name for name in at_the_top(MODULES[module]) if name.split(".")[0] in HEAVY}
        assert not heavy, f"{module} imports {heavy} at the top"


def functions(path):
    return (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("module", MODULES)
def test_code_stays_small(module):
    """Over 350 lines a file is two, over 80 a function is several; data is no code."""
    path = MODULES[module]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{module} has {lines} lines"
    for f in functions(path):
        assert f.end_lineno - f.lineno < 80, f"{module}.{f.name} has {f.end_lineno - f.lineno + 1} lines"
        classes = [n.name for n in ast.walk(f) if isinstance(n, ast.ClassDef)]
        assert not classes, f"{module}.{f.name} defines {classes}: a module does as well"


@pytest.mark.parametrize("module", MODULES)
def test_calls_name_what_they_give(module):
    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.Call):
            assert len(node.args) <= 5, f"{module}:{node.lineno}: {len(node.args)} positional arguments"
            assert ast.unparse(node.func) != "object.__setattr__", f"{module}:{node.lineno} sets a frozen field"


def test_records_hold_no_callable():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and module_of(path) == "kat.records":
                fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
                assert not [f for f in fields if "Callable" in ast.unparse(f.annotation)], node.name


REPLACED = {"door", "doors", "tour", "judged", "judgement", "spacing", "twin", "sealed", "seal", "appraisal", "house"}
"""Words that others replaced (docs/architecture.md, "Words")."""


@pytest.mark.parametrize("module", MODULES)
def test_names_use_the_words(module):
    names = set()
    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    parts = {part.lower() for name in names for part in re.findall(r"[A-Za-z][a-z]*", name)}
    assert not parts & REPLACED, parts & REPLACED


def test_every_command_is_a_stage_of_its_name():
    """A command is a file in stages/; `export` lives in export_model.py, for a module must not hide a word of Python's
    users: export is what both exporting stages do. `kat origin` is no command of this table: what it runs are the
    files of scripts/ (tests/test_packaging.py)."""
    from kat.cli.main import app

    commands = {name.replace("-", "_") for name in app if not name.startswith("-")}
    files = {path.stem for path in (ROOT / "kat" / "stages").glob("*.py")} - {"__init__", "stage"} - PARTS_OF_STAGES
    assert commands - {"export"} | {"export_model"} == files


def test_a_stage_calls_itself_by_its_name():
    """The name that a stage gives to its manifest and its line is the name of its file."""
    for path in (ROOT / "kat" / "stages").glob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "stage" and node.args:
                if path.stem == "pair_training":
                    assert ast.unparse(node.args[0]) == "training.stage"  # that of the trainer's own file, see below
                    continue
                name = ast.literal_eval(node.args[0])
                assert name.replace("-", "_") == path.stem.replace("export_model", "export"), path.stem
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "stage" and node.value is not None:
                assert ast.literal_eval(node.value).replace("-", "_") == path.stem, path.stem


NAMES_ON_DISK = r"\.npy|ids\.json|prefixes_all|pair_weights\.|_metadata|\.rejected|\.unfinished|evaluation\.(json|png)"


def test_run_folder_owns_the_names():
    """What several stages read and write is named in one place; messages and docstrings may speak of it."""
    for module, path in MODULES.items():
        if module == "kat.run_folder" or module.startswith(("kat.cli", "kat.reports")):
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
                name = str(node.right.value)
                own = module in ("kat.embedding.checkpoint", "kat.neighbors.storage")  # files that nobody else reads
                assert own or not re.search(NAMES_ON_DISK, name), f"{module}:{node.lineno} names {name}"


def test_scripts_are_thin_and_no_package():
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
        assert set(re.findall(r"^(?:from|import) (\S+)", source, re.M)) == {"kat.cli.process"}, path.name


def test_errors_are_one_tree_drawn_in_the_docstring():
    import kat.errors

    for name, value in vars(kat.errors).items():
        if isinstance(value, type) and value.__module__ == "kat.errors":
            assert issubclass(value, kat.errors.KatError)
            assert re.search(rf"\b{name}\b", kat.errors.__doc__), name


ONLY_PRINT = {"kat.terminal", "kat.cli.process", "kat.cli.signals"}
"""What prints by itself: the last two sentences of their own alone, where nothing else is loaded or safe to call."""


def written_to_a_terminal(tree):
    """Lines that print, or write to stdout or stderr, by any name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "print" or re.search(r"\b(stdout|stderr)\.(buffer\.)?(write|writelines)$", called):
                yield node.lineno
            if called in ("tqdm.write", "os.write") or called.endswith("print_exc"):
                yield node.lineno


@pytest.mark.parametrize("module", sorted(MODULES.keys() - ONLY_PRINT))
def test_what_is_printed_goes_through_one_place(module):
    """kat.terminal escapes what would drive a terminal."""
    assert not list(written_to_a_terminal(tree_of(MODULES[module]))), module


def test_printing_is_seen():
    lines = ["print(1)", "sys.stdout.write('a')", "sys.stderr.buffer.write(b'a')", "tqdm.write('a')"]
    assert list(written_to_a_terminal(ast.parse("\n".join(lines)))) == [1, 2, 3, 4]
    assert not list(written_to_a_terminal(ast.parse("file.write('a')\nshow('a')\njob.file.writelines(x)")))
