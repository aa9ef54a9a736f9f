"""Kept machine code, damaged in every way: the same result, one note, and kept again."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from kat import compiled

numba = pytest.importorskip("numba")
from kat import kernel_cache  # noqa: E402 (it needs numba)
from kat.kernel_cache import KernelFiles  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
import numba
import numpy as np
from kat.compiled import kernel, kernel_flags
FLAGS = kernel_flags(__file__)

@kernel(**FLAGS)
def double(x):
    return 2 * x

@kernel(parallel=True, **FLAGS)
def total(x):
    total = 0.0
    for i in numba.prange(len(x)):
        total += double(x[i])
    return total

for x in (np.arange(9.0), np.arange(9)):
    print(total(x))
print(sum(sum(f.stats.cache_hits.values()) for f in (double, total)), len(FLAGS))
"""
RIGHT = ["72.0", "72.0"]
VERSIONS = 4
"""Of two functions, for two types each; those of `double` are compiled into what calls it, and kept too."""
NO_ROOT = (  # root reads and writes everything; without its capabilities it does not
    "import ctypes, struct\nctypes.CDLL(None).capset(struct.pack('=II', 0x20080522, 0), bytes(24))\n"
)
FULL = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"


@pytest.fixture
def run(tmp_path):
    """Run the kernels in a process of their own, with a cache in `cache`: their lines and what is on stderr."""
    script, cache = tmp_path / "kernels.py", tmp_path / "cache"
    script.write_text(SOURCE)

    def run(before="", where=cache):
        code = f"{before}\nimport runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
        environment = os.environ | {"NUMBA_CACHE_DIR": str(where), "PYTHONPATH": str(ROOT)}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        *results, hits = done.stdout.splitlines()
        assert results == RIGHT
        return int(hits.split()[0]), done.stderr

    return run


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.nbc"))


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


class Trap:
    def __reduce__(self):
        return (open, (os.environ["TRAP"], "w"))


DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\xff" + path.read_bytes()[-8:]),
    "garbage": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "a folder": replaced_by_a_folder,
    "unreadable": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_note_and_mended(run, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("TRAP", str(tmp_path / "ran"))
    assert run()[1] == ""
    files = kept(tmp_path)
    assert len(files) == VERSIONS
    hits, said = run()
    assert (hits, said) == (2, "")  # `total` is read whole, and needs no `double`
    for path in files:
        DAMAGES[damage](path)
    hits, said = run(NO_ROOT if damage == "unreadable" and sys.platform == "linux" else "")
    assert hits == 0
    assert said.count("UserWarning: Compiled code") == 1
    assert "NUMBA_CACHE_DIR" in said
    assert not (tmp_path / "ran").exists()
    assert run() == (2, "")
    assert kept(tmp_path) == files
    assert not list((tmp_path / "cache").rglob("*.tmp.*"))


def test_a_full_disk_is_one_note(run, tmp_path):
    hits, said = run(FULL)
    assert (hits, said.count("UserWarning: Compiled code cannot be kept")) == (0, 1)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]  # no half a file either
    assert run() == (0, "")
    assert run() == (2, "")


def test_a_folder_with_files_in_the_place_of_one_stays(run, tmp_path):
    run()
    for path in kept(tmp_path):
        replaced_by_a_folder(path)
        (path / "somebody's").write_text("")
    for _ in range(2):  # it cannot be mended, and is said each time
        assert run()[1].count("UserWarning: Compiled code") == 1
    assert all((path / "somebody's").is_file() for path in kept(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of root, which Linux has")
@pytest.mark.parametrize("mode", [0, 0o500])
def test_a_folder_of_another_user_is_passed_over(run, tmp_path, mode):
    run()
    (tmp_path / "cache").chmod(mode)
    try:
        hits, said = run(NO_ROOT)
    finally:
        (tmp_path / "cache").chmod(0o700)
    assert "Traceback" not in said
    assert said.count("UserWarning: Compiled code") <= 1
    assert hits in (0, 2)  # another place may hold it from before


@pytest.fixture
def files(tmp_path):
    return KernelFiles(tmp_path, "f-1.py312", (1.5, 20))


KEY = (("float64",), ("x86", "cpu", "+avx2"), ("code", "closure"))


def test_every_cut_and_every_flipped_bit_is_seen(files, tmp_path):
    files.save(KEY, {"code": b"machine"})
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert files.load(KEY) == {"code": b"machine"}
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [
        bytes(b ^ (1 << bit) * (i == n) for i, b in enumerate(whole)) for n in range(len(whole)) for bit in range(8)
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(kernel_cache._DamagedError):
            files.load(KEY)
    files.save(KEY, {"code": b"machine"})
    assert path.read_bytes() == whole


def test_processors_that_share_a_folder_keep_code_each(files):
    other = (KEY[0], ("x86", "cpu", "-avx2"), KEY[2])
    files.save(KEY, "for this one")
    files.save(other, "for that one")
    assert (files.load(KEY), files.load(other)) == ("for this one", "for that one")


def test_code_of_another_source_is_not_used_and_replaced(files, tmp_path):
    files.save(KEY, "old")
    newer = KernelFiles(tmp_path, "f-1.py312", (2.5, 20))
    changed = (*KEY[:2], ("other code", "closure"))
    assert newer.load(KEY) is None
    assert files.load(changed) is None
    newer.save(KEY, "new")
    assert newer.load(KEY) == "new"
    assert len(list(tmp_path.iterdir())) == 1
    assert files.load((("int64",), *KEY[1:])) is None  # other types are another file
    newer.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_version_of_numba_made_otherwise_keeps_code_itself(run, tmp_path):
    hidden = "import sys; sys.modules['kat.kernel_cache'] = None"
    run(hidden)
    assert list((tmp_path / "cache").rglob("*.nbi"))  # numba's own index
    assert run(hidden) == (2, "")


def test_a_place_that_went_since_it_was_looked_at(monkeypatch, tmp_path):
    def gone(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(kernel_cache, "KernelCache", gone)
    compiled._say_uncached.cache_clear()
    with pytest.warns(UserWarning, match="compiles again"):
        triple = compiled.kernel(cache=True)(lambda x: 3 * x)
    assert triple(2) == 6
