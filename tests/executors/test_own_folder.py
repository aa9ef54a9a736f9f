"""Folders of killed processes go, and nothing else: a lock tells, not a process number."""

import json
import os
import signal
import subprocess
import sys

import pytest

from kat.executors import own_folder
from kat.executors.own_folder import LOCK, OwnFolder, remove_leftovers

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no such locks")

HOLDER = (
    "import sys, time; from pathlib import Path; from kat.executors.own_folder import OwnFolder; "
    "folder = OwnFolder(Path(sys.argv[1])).path; (folder / 'result').write_bytes(b'x'); "
    "(folder / 'session').mkdir(); (folder / 'session' / 'log').write_bytes(b'x'); "
    "print(folder, flush=True); time.sleep(600)"
)


@pytest.fixture
def other(tmp_path):
    """A process that has a folder, and the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, tmp_path / os.path.basename(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_goes_and_a_living_one_keeps_its_own(tmp_path, other):
    process, folder = other
    own = OwnFolder(tmp_path)
    assert (folder / "result").is_file()
    process.kill()
    process.wait()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [own.path]
    own.remove()
    assert not list(tmp_path.iterdir())


def test_a_process_of_another_container_lives_though_its_number_is_nobodys(tmp_path, other):
    """Its number means nothing here: the folder is named after one that no process has."""
    _, folder = other
    elsewhere = folder.rename(tmp_path / f"{own_folder.PREFIX}4194999-abcdefgh")
    remove_leftovers(tmp_path)
    assert (elsewhere / "session" / "log").is_file()


def test_a_stopped_process_lives(tmp_path, other):
    process, folder = other
    process.send_signal(signal.SIGSTOP)
    remove_leftovers(tmp_path)
    assert (folder / "result").is_file()


def test_what_strangers_have_stays(tmp_path):
    kernel = json.dumps(own_folder._kernel())
    told = {
        "kat-ray-1-of_another_kernel": json.dumps({"kernel": "00000000-0000-0000-0000-000000000000"}),
        "kat-ray-2-of_another_host": json.dumps({"host": "elsewhere"}),
        "kat-ray-3-just_begun": "",
        "kat-ray-4-not_ours": "[1, 2",
        "other-5": kernel,
    }
    for name, text in told.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / LOCK).write_text(text)
    (tmp_path / "kat-ray-6-without").mkdir()
    (tmp_path / "kat-ray-7-file").write_text(kernel)
    (tmp_path / "kat-ray-8-link").symlink_to(tmp_path / "other-5")
    (tmp_path / "kat-ray-9-lock_is_a_link").mkdir()
    (tmp_path / "kat-ray-9-lock_is_a_link" / LOCK).symlink_to(tmp_path / "other-5" / LOCK)
    before = sorted(tmp_path.rglob("*"))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_folder_are_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "shared").mkdir()
    left = tmp_path / "shared" / "kat-ray-1-x"
    left.mkdir()
    (left / LOCK).write_text(json.dumps(own_folder._kernel()))
    (left / "link").symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path / "shared")
    assert not list((tmp_path / "shared").iterdir())
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_removal_that_was_stopped_goes_on(tmp_path, monkeypatch):
    left = tmp_path / "kat-ray-1-x"
    left.mkdir()
    (left / LOCK).write_text(json.dumps(own_folder._kernel()))
    (left / "file").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(own_folder, "_empty", lambda folder: False)
        remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kat-ray-1-x.gone"]
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_keeps_all(tmp_path, monkeypatch):
    monkeypatch.setattr(own_folder, "lock_file", lambda *_: False)
    own = OwnFolder(tmp_path)
    remove_leftovers(tmp_path)
    assert own.path.is_dir()
    own.remove()
    assert not list(tmp_path.iterdir())


def test_a_fork_does_not_remove_it(tmp_path):
    own = OwnFolder(tmp_path)
    if (child := os.fork()) == 0:
        own.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert own.path.is_dir()
    own.remove()
    own.remove()
    assert not list(tmp_path.iterdir())
