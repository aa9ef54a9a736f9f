"""Compiled code where nothing can be written, and never from a folder where others can put theirs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from kat import compiled

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are Unix's")

PLACE = """
from kat.neighbors import kernels
print("cache", kernels.FLAGS["cache"], kernels.finish.stats.cache_path if kernels.FLAGS["cache"] else None)
"""
WORK = """
import numpy as np, kat
x = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
near = kat.find_neighbors(x, 5, metric="euclidean")
apart = np.linalg.norm(x[:, None].astype(float) - x[None].astype(float), axis=2)
np.fill_diagonal(apart, np.inf)
print("nearest", bool((np.argsort(apart, axis=1)[:, :5] == near.indices).all()))
vectors = kat.encode(["a", "b"], processes=1).vectors
print("unit", bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)))
"""


@pytest.fixture
def read_only(tmp_path):
    """A copy of kat in which nothing can be written: not even root writes in a folder that a file stands in for."""
    folder = tmp_path / "install"
    shutil.copytree(ROOT / "kat", folder / "kat", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("neighbors", "packing"):
        (folder / "kat" / name / "__pycache__").write_text("")  # no folder can be made or written here
    return folder


def python(code, folder, temporary, **more):
    dropped = {"NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "TMPDIR"}
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    environment |= {"HOME": "/proc/none", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"TMPDIR": str(temporary)} | more
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def temporary(tmp_path):
    """A temporary directory like the system's: anybody writes, only owners rename."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_a_private_folder_serves_a_read_only_install(read_only, temporary):
    private = temporary / f"kat-numba-{os.geteuid()}"
    first = python(PLACE + WORK, read_only, temporary)
    assert first.stdout.splitlines()[1:] == ["nearest True", "unit True"]
    assert f"cache True {private}" in first.stdout
    assert first.stderr.count("NUMBA_CACHE_DIR") == 1
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    kept = {path: path.read_bytes() for path in private.rglob("*.nb?")}
    assert any(path.suffix == ".nbc" for path in kept)
    again = python(PLACE + WORK, read_only, temporary)
    assert again.stdout == first.stdout
    assert "NUMBA_CACHE_DIR" not in again.stderr  # said as it was made
    assert {path: path.read_bytes() for path in private.rglob("*.nb?")} == kept  # read, not compiled again


def _kept(folder):
    """Folders and files of numba's; torch makes an empty one of its own there as it is imported."""
    return [*folder.glob("kat-numba*"), *folder.rglob("*.nb?")]


def test_without_any_place_it_compiles_again(read_only, temporary):
    temporary.chmod(0o777)  # others could put theirs in the place of a private folder
    ran = python(PLACE + WORK, read_only, temporary)
    assert ran.stdout.splitlines() == ["cache False None", "nearest True", "unit True"]
    assert ran.stderr.count("NUMBA_CACHE_DIR") == 1
    assert not _kept(temporary)


def test_numba_keeps_its_own_choice(read_only, temporary, tmp_path):
    """What the user names comes first, then `__pycache__`, then the user's cache folder: nothing is said."""
    named = python(PLACE, read_only, temporary, NUMBA_CACHE_DIR=str(tmp_path / "named"))
    assert f"cache True {tmp_path / 'named'}" in named.stdout
    home = python(PLACE, read_only, temporary, XDG_CACHE_HOME=str(tmp_path / "home"))
    assert f"cache True {tmp_path / 'home' / 'numba'}" in home.stdout
    (read_only / "kat" / "neighbors" / "__pycache__").unlink()
    near = python(PLACE, read_only, temporary)
    assert f"cache True {read_only / 'kat' / 'neighbors' / '__pycache__'}" in near.stdout
    assert not any("NUMBA_CACHE_DIR" in ran.stderr for ran in (named, home, near))
    assert not _kept(temporary)


def test_a_place_that_cannot_be_written_is_passed_over(read_only, temporary):
    ran = python(PLACE, read_only, temporary, NUMBA_CACHE_DIR="/proc/none")
    assert f"cache True {temporary}" in ran.stdout


@pytest.fixture
def numba_at(monkeypatch, tmp_path):
    """Where numba would cache, without a process: the folder that it gives, and a source to ask about."""
    numba = pytest.importorskip("numba")
    source = tmp_path / "source" / "kernels.py"
    source.parent.mkdir()
    source.write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")

    def at(place):
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(compiled, "_numba_place", lambda _: place)
        return source

    return at


def test_what_others_can_write_is_not_read(numba_at, tmp_path, temporary, monkeypatch):
    import numba

    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setattr(compiled, "_keeps_names", lambda folder: True)
    source = numba_at(tmp_path / "shared")
    assert compiled.kernel_flags(str(source))["cache"]
    assert numba.config.CACHE_DIR == ""  # it is trusted as it is
    (tmp_path / "shared").chmod(0o777)
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        assert compiled.kernel_flags(str(source))["cache"]
    assert str(temporary.resolve() / f"kat-numba-{os.geteuid()}") == numba.config.CACHE_DIR


def test_a_folder_of_somebody_else_is_not_read(tmp_path):
    source = tmp_path / "kernels.py"
    source.write_text("")
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    folder = tmp_path / "cache"
    folder.mkdir()
    assert compiled._is_trusted(folder, source)
    os.chown(folder, 4321, 4321)
    assert not compiled._is_trusted(folder, source)
    os.chown(source, 4321, 4321)  # who owns the source can change it anyway
    assert compiled._is_trusted(folder, source)


def private(parent):
    return parent / f"kat-numba-{os.geteuid()}"


def refuse_nothing(monkeypatch, temporary):
    """pytest's folders stand below ones of any mode: let only the temporary directory itself be looked at."""
    true = compiled._keeps_names
    monkeypatch.setattr(compiled, "_keeps_names", lambda folder: folder != temporary.resolve() or true(folder))


@pytest.mark.filterwarnings("ignore:Compiled code")
@pytest.mark.parametrize("mode", [0o701, 0o710, 0o720, 0o777, 0o755])
def test_a_private_folder_with_rights_for_others_is_refused(monkeypatch, temporary, mode):
    refuse_nothing(monkeypatch, temporary)
    assert compiled.private_folder(str(temporary)) == private(temporary.resolve())
    private(temporary).chmod(mode)
    assert compiled.private_folder(str(temporary)) is None


def test_a_link_is_refused(monkeypatch, temporary, tmp_path):
    refuse_nothing(monkeypatch, temporary)
    (tmp_path / "theirs").mkdir(mode=0o700)
    private(temporary).symlink_to(tmp_path / "theirs")
    assert compiled.private_folder(str(temporary)) is None


def test_a_file_or_somebody_elses_folder_in_its_place_is_refused(monkeypatch, temporary):
    refuse_nothing(monkeypatch, temporary)
    private(temporary).write_text("")
    assert compiled.private_folder(str(temporary)) is None
    private(temporary).unlink()
    private(temporary).mkdir(mode=0o700)
    mine = private(temporary).lstat()
    theirs = types.SimpleNamespace(st_mode=mine.st_mode, st_uid=mine.st_uid + 1)
    monkeypatch.setattr(Path, "lstat", lambda self: theirs)
    assert compiled.private_folder(str(temporary)) is None


def test_a_temporary_directory_where_others_rename_is_refused(monkeypatch, temporary):
    refuse_nothing(monkeypatch, temporary)
    temporary.chmod(0o777)
    assert compiled.private_folder(str(temporary)) is None
    assert not private(temporary).exists()


def test_no_temporary_directory_at_all(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(compiled.tempfile, "gettempdir", none)
    assert compiled.private_folder() is None


def test_without_a_home_no_folder_named_tilde_is_made(monkeypatch, tmp_path):
    """A user without an entry and without HOME: numba would make and trust ./~/.cache wherever the process stands."""
    numba = pytest.importorskip("numba")
    source = tmp_path / "kernels.py"
    source.write_text("")
    (tmp_path / "__pycache__").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert compiled._own_place(source) is None
    assert not (tmp_path / "~").exists()
    (tmp_path / "__pycache__").unlink()
    assert compiled._own_place(source) == tmp_path / "__pycache__"
