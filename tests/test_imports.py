"""What is public, and that it costs nothing until it is used."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

import kat

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "transformers", "numpy", "pyarrow", "numba", "sklearn", "tqdm", "huggingface_hub"]
PROMISED = [
    "read_pairs",
    "unique_prefixes",
    "encode",
    "find_neighbors",
    "estimate_density",
    "weigh",
    "load_density_mapping",
    "open_prefixes",
]
LOADED = "import json, sys; print(json.dumps([m for m in sys.modules if '.' not in m]), file=sys.stderr)"


def loaded(ran):
    assert ran.rc == 0, ran.stderr
    return set(json.loads(ran.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import kat",
        "import kat; dir(kat); kat.__version__",
        "import kat.cli.main",
        "import kat.cli.scripts",
        "from kat import Pair, Prefix, Embeddings, KatError, opening_id",
        "from kat.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "from kat.cli.main import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass",
        "import sys\nfrom kat.cli.main import run_script\nsys.argv[1:] = ['--help']\n"
        "try:\n    run_script('kat_embed')\nexcept SystemExit:\n    pass",
    ],
    ids=["kat", "dir", "cli", "scripts", "nouns", "help", "run-help", "script-help"],
)
def test_nothing_heavy_is_loaded(python, code):
    found = loaded(python("-c", f"{code}\n{LOADED}"))
    assert "kat" in found
    assert found.isdisjoint(HEAVY), found & set(HEAVY)


def test_the_look_at_modules_sees_heavy_ones(python):
    assert "numpy" in loaded(python("-c", f"import numpy\n{LOADED}"))


def test_openings_need_no_model(python, tmp_path):
    """Pairs to openings loads no torch."""
    row = {"prefix": {"messages": [{"role": "user", "content": "q"}]}, "chosen": "a", "rejected": "b"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    call = "main(['prefixes', 'p.jsonl', '--out', 'o.jsonl'])"
    code = f"from kat.cli.main import main\ntry:\n    {call}\nexcept SystemExit:\n    pass\n{LOADED}"
    assert loaded(python("-c", code)).isdisjoint({"torch", "transformers", "sklearn"})
    assert (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize("name", kat.__all__)
def test_public_names_resolve(name):
    value = getattr(kat, name)
    assert value is getattr(kat, name)
    if name != "__version__":
        assert callable(value)
        assert value.__name__ == name
        assert value.__doc__


def test_the_promised_names_are_public():
    assert set(PROMISED) <= set(kat.__all__)
    assert set(kat.__all__) == set(dir(kat))
    assert len(set(kat.__all__)) == len(kat.__all__)


def test_names_in_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = set(re.findall(r"\bkat\.([a-z_]+)\(", text)) | set(re.findall(r"\bkat\.([A-Z]\w+)", text))
    assert len(names) >= 5
    assert names <= set(kat.__all__), names - set(kat.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="wiegh"):
        kat.wiegh  # noqa: B018
    assert not hasattr(kat, "pytest")


def test_no_network(python):
    """The fixture that blocks sockets does, here and in processes."""
    import socket

    for call in (lambda: socket.create_connection(("127.0.0.1", 9)), lambda: socket.getaddrinfo("localhost", 80)):
        with pytest.raises(OSError, match="no network"):
            call()
    with socket.socket() as one, pytest.raises(OSError, match="no network"):
        one.connect(("127.0.0.1", 9))
    ran = python("-c", "import socket; socket.socket().connect(('127.0.0.1', 9))")
    assert ran.rc == 1
    assert "no network" in ran.stderr


SCRIPTS = sorted(
    path for folder in ("benchmarks", "docs/images", "dev", "scripts") for path in (ROOT / folder).glob("*.py")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scripts_take_from_kat_what_is_there(path):
    """What no other test runs would not be missed when a name moves."""
    taken = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in taken:
        if node.module and node.module.partition(".")[0] == "kat":
            module = importlib.import_module(node.module)
            for alias in node.names:
                try:
                    getattr(module, alias.name)
                except AttributeError:
                    importlib.import_module(f"{node.module}.{alias.name}")
