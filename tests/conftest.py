"""What every test gets: no network, a base directory of its own, and `kat` to run in-process or as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = """
import socket

def _refuse(*args, **kwargs):
    raise OSError("tests have no network")

socket.socket.connect = socket.socket.connect_ex = _refuse
socket.getaddrinfo = socket.create_connection = _refuse
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    rc: int
    stdout: str
    stderr: str

    def failed(self, rc: int = 2) -> str:
        """Its message, after checking that it failed the way kat fails: exit status, stderr, no traceback."""
        assert self.rc == rc, self
        assert "Traceback" not in self.stderr + self.stdout, self.stderr
        assert self.stderr.strip(), "a failure without a word"
        return self.stderr


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    def refuse(*args, **kwargs):
        raise OSError("tests have no network")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, refuse)
        for name in ("getaddrinfo", "create_connection"):
            patch.setattr(socket, name, refuse)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def base_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty base directory of the test's own, named by KAT_BASE_DIR."""
    path = tmp_path_factory.mktemp("base")
    monkeypatch.setenv("KAT_BASE_DIR", str(path))
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real preference files; skips where there is none."""
    named = os.environ.get("KAT_REAL_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is no folder (KAT_REAL_DATA names another)")
    return path


@pytest.fixture
def kat_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the `kat` command in this process: kat_cli("prefixes", path, "--out", out)."""
    from kat.cli import main as cli

    def run(*argv: object) -> Ran:
        capsys.readouterr()
        config, show = cli.app.config, warnings.showwarning
        try:
            cli.main([str(a) for a in argv])
            rc = 0
        except SystemExit as end:
            rc = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            cli.app.config, warnings.showwarning = config, show
        out, err = capsys.readouterr()
        return Ran(rc, out, err)

    return run


@pytest.fixture(scope="session")
def _blocked_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(_BLOCK)
    return folder


@pytest.fixture
def process(_blocked_path: Path, tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start Python with arguments in a folder of its own, without network; options go to Popen."""

    def start(*argv: object, env: dict[str, str] | None = None, **options) -> subprocess.Popen:
        search = os.pathsep.join(filter(None, [str(_blocked_path), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": search, "PYTHONIOENCODING": "utf-8"} | (env or {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path} | options
        return subprocess.Popen([sys.executable, *map(str, argv)], env=environment, **pipes)

    return start


@pytest.fixture
def python(process: Callable[..., subprocess.Popen]) -> Callable[..., Ran]:
    """Run Python to its end: python("-m", "scripts.kat_make_prefixes", "--help")."""

    def run(*argv: object, **options) -> Ran:
        child = process(*argv, **options)
        out, err = child.communicate(timeout=120)
        texts = [(b or b"").decode("utf-8", "replace") for b in (out, err)]
        return Ran(child.returncode, *texts)

    return run


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demo pairs (pairs.jsonl) and their run (run), to be copied before it is changed."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("demo")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "600"])
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--device", "cpu"])
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors are tiny: on a busy machine threads that wait for each other take most of the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
