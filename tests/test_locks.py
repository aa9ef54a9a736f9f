"""One writer an output: the second is told who writes, a dead one holds nothing, and nothing is left."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from kat.errors import OutputError
from kat.locks import lock_path, locked

HOLD = (
    "import sys, pathlib\n"
    "from kat.locks import locked\n"
    "with locked(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of an output."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(path):
    with locked(path):
        return sorted(p.name for p in path.parent.iterdir())


def test_the_second_is_told_who_writes(holder, tmp_path):
    with pytest.raises(OutputError, match=rf"is being written by process {holder.pid} on .*, which began at 20"):
        take(tmp_path / "out")
    assert take(tmp_path / "other") == [".kat-lock-other", ".kat-lock-out"]


def test_a_killed_one_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert lock_path(tmp_path / "out").exists()
    assert take(tmp_path / "out") == [".kat-lock-out"]
    assert list(tmp_path.iterdir()) == []


def test_it_goes_when_its_holder_ends(holder, tmp_path):
    holder.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_what_this_process_holds_it_holds(tmp_path):
    with locked(tmp_path / "out"):
        told = json.loads(lock_path(tmp_path / "out").read_bytes())
        assert told["pid"] == os.getpid()
        assert take(tmp_path / "out") == [".kat-lock-out"]
        assert lock_path(tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_what_it_leads_to_are_one(holder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(OutputError, match="is being written by"):
        take(tmp_path / "link")


def test_a_lock_that_was_removed_as_it_was_opened_is_taken_again(tmp_path, monkeypatch):
    from kat import locks

    real, looks = locks.lock_file, []

    def slow(file, what, holder=b""):
        if not looks:
            lock_path(tmp_path / "out").unlink()  # its holder ended between the opening and the locking
        looks.append(file)
        return real(file, what, holder)

    monkeypatch.setattr(locks, "lock_file", slow)
    assert take(tmp_path / "out") == [".kat-lock-out"]
    assert len(looks) == 2


def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(tmp_path / "out"):
        assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_lock_that_cannot_be_made(tmp_path, monkeypatch, number):
    """Who may not write there is told by what is written; a disk that fails is told at once."""

    def failing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    if number in (errno.EACCES, errno.EROFS):
        with locked(tmp_path / "out"):
            pass
    else:
        with pytest.raises(OSError, match=os.strerror(number)), locked(tmp_path / "out"):
            pass
