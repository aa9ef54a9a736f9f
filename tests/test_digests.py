"""Hashes are of the bytes that are there, whatever was kept, and a file that changes while it is read is noticed."""

import hashlib
import os
import time

import pytest

from kat import digests
from kat.digests import sha256_file, sha256_read, watching
from kat.errors import InputError


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A file that was written long ago."""
    monkeypatch.setattr(digests, "_known", {})
    path = tmp_path / "file"
    path.write_bytes(b"one" * 1000)
    monkeypatch.setattr(time, "time_ns", lambda real=time.time_ns: real() + 10_000_000_000)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_hash_is_kept_and_never_of_what_was(old, monkeypatch):
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or real(file, name))
    assert sha256_file(old) == sha256_file(old) == digest(old)
    assert len(hashed) == 1
    old.write_bytes(b"two" * 1000)
    assert sha256_file(old) == digest(old)
    os.replace(old, old.with_name("moved"))
    old.write_bytes(b"two" * 1000)
    assert sha256_file(old) == digest(old)
    assert len(hashed) == 3


def test_what_changed_a_moment_ago_is_not_kept(tmp_path):
    """Two changes in one tick of the clock have the same times."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    state = path.stat()
    assert sha256_file(path) == digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sha256_file(path) == digest(path)


def test_two_changes_in_one_tick_are_told_apart(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    tick = digests.signature(path)
    monkeypatch.setattr(digests, "_signature", lambda state: tick)
    with watching() as watch:
        assert sha256_read(path) == digest(path)
        assert watch.first_changed() is None
        path.write_bytes(b"two")
        assert sha256_file(path) == digest(path)
        assert watch.first_changed() == path


def test_a_change_while_it_is_hashed(old, monkeypatch):
    real = hashlib.file_digest

    def changed_on_the_way(file, name):
        old.write_bytes(b"two" * 1000)
        return real(file, name)

    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", changed_on_the_way)
        sha256_file(old)
    old.write_bytes(b"six" * 1000)
    assert sha256_file(old) == digest(old)


def test_what_was_read_first_counts(old):
    with watching() as watch:
        sha256_read(old)
        old.write_bytes(b"two" * 1000)
        sha256_read(old)
        assert watch.first_changed() == old


@pytest.mark.parametrize("settled", [True, False])
def test_what_is_no_more_what_was_read(old, settled, monkeypatch):
    if not settled:
        monkeypatch.undo()
    original = old.read_bytes()

    def rewritten():
        old.write_bytes(b"")
        old.write_bytes(original)
        os.utime(old, ns=(0, 0))

    changes = {
        "other bytes": lambda: old.write_bytes(b"three" * 1000),
        "the same bytes, written again": rewritten,
        "gone": old.unlink,
        "another file in its place": lambda: (old.unlink(), old.write_bytes(original)),
    }
    for name, change in changes.items():
        if not old.exists():
            old.write_bytes(original)
        with watching() as watch:
            sha256_read(old)
            assert watch.first_changed() is None, name
            change()
            assert watch.first_changed() == old, name


def test_a_link_more_or_other_rights_change_nothing(old):
    with watching() as watch:
        sha256_read(old)
        os.link(old, old.with_name("second"))
        old.chmod(0o600)
        assert watch.first_changed() is None


def test_what_is_hashed_and_not_read_is_not_watched(old):
    with watching() as watch:
        sha256_file(old)
        old.unlink()
        assert watch.first_changed() is None


def test_what_cannot_be_read_is_said(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("none", "No such file"), ("pipe", "no regular file"), (".", "is a folder")):
        with pytest.raises(InputError, match=said):
            sha256_file(tmp_path / name)
