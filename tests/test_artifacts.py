"""Outputs on disk: whole or not at all, and skipped only when they are what was asked for."""

import hashlib
import json
import os
import subprocess

import pytest

from kat import artifacts, atomic, run_folder
from kat.arrays import load_array
from kat.artifacts import (
    MANIFEST,
    is_done,
    manifest,
    manifest_bytes,
    manifest_path,
    open_hashes,
    read_manifest,
    write_folder_manifest,
)
from kat.atomic import atomic_file, atomic_files
from kat.digests import sha256_file
from kat.errors import MismatchError, OutputError
from kat.outputs import output_folder

OPTIONS = {"k": 3}
WANTED = manifest("stage", {"pairs": "abc"}, OPTIONS)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def made(path, data=b"data", wanted=WANTED):
    with atomic_files(path, manifest_path(path)) as (file, record):
        file.write(data)
        record.write(manifest_bytes({**wanted, "outputs": open_hashes({path.name: file})}))
    return path


class TestWholeFile:
    def test_it_appears_when_the_block_ends(self, tmp_path):
        path = tmp_path / "deep" / "er" / "out.jsonl"
        with atomic_file(path) as file:
            file.write(b"new")
            assert not path.exists()
        assert path.read_bytes() == b"new"
        assert names(path.parent) == ["out.jsonl"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError, MemoryError, SystemExit])
    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path, error):
        path = tmp_path / "out"
        path.write_bytes(b"old")

        def fail():
            with atomic_file(path) as file:
                file.write(b"new" * 100_000)
                raise error("stop")

        with pytest.raises(OutputError if error is OSError else error):
            fail()
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["out"]

    def test_readers_see_the_old_file_until_the_end(self, tmp_path):
        path = tmp_path / "out"
        path.write_bytes(b"old")
        with path.open("rb") as reader, atomic_file(path) as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"new"
        assert reader.closed

    @pytest.mark.parametrize("where", ["file/out", "file/deep/out"])
    def test_a_place_that_cannot_be(self, tmp_path, where):
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises(OutputError, match="cannot be written"), atomic_file(tmp_path / where):
            pass
        assert names(tmp_path) == ["file"]

    def test_what_a_killed_run_left_is_swept_and_what_a_living_one_writes_is_not(self, tmp_path):
        child = subprocess.Popen(["true"])
        child.wait()
        here = f".kat-tmp-{atomic._HOST}"
        dead, living = tmp_path / f"{here}-{child.pid}-1-out", tmp_path / f"{here}-{os.getppid()}-1-out"
        elsewhere = tmp_path / f".kat-tmp-elsewhere-{child.pid}-1-out"
        elsewhere.write_bytes(b"half")
        dead.write_bytes(b"half")
        living.write_bytes(b"half")
        (tmp_path / f"{here}-{child.pid}-2-").mkdir()
        mine = tmp_path / ".kat-tmp-notes"
        mine.write_bytes(b"not kat's")
        with atomic_file(tmp_path / "out") as file:
            file.write(b"x")
        assert names(tmp_path) == sorted([living.name, elsewhere.name, mine.name, "out"])

    def test_a_leftover_that_cannot_be_swept_does_not_matter(self, tmp_path, monkeypatch):
        child = subprocess.Popen(["true"])
        child.wait()
        other = tmp_path / f".kat-tmp-{atomic._HOST}-{child.pid}-1-out"
        other.write_bytes(b"half")
        unlink = type(other).unlink

        def sticky(path, missing_ok=False):
            if path == other:
                raise PermissionError(1, "Operation not permitted", str(path))
            unlink(path, missing_ok)

        monkeypatch.setattr(type(other), "unlink", sticky)
        with atomic_file(tmp_path / "out") as file:
            file.write(b"x")

    def test_a_link_is_followed(self, tmp_path):
        (tmp_path / "disk").mkdir()
        link = tmp_path / "out"
        link.symlink_to(tmp_path / "disk" / "real")
        with atomic_file(link) as file:
            file.write(b"x")
        assert link.is_symlink()


class TestWholeFolder:
    def test_files_appear_together_and_others_stay(self, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.txt").write_bytes(b"mine")
        with output_folder(out) as (folder, _):
            (folder / "a").write_bytes(b"1")
            (folder / "b").write_bytes(b"2")
            assert not (out / "a").exists()
        assert names(out) == ["a", "b", "notes.txt"]
        assert (out / "notes.txt").read_bytes() == b"mine"

    def test_a_failure_leaves_the_old_ones_with_their_manifest(self, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        for name in ("a", MANIFEST):
            (out / name).write_bytes(b"old")

        def fail():
            with output_folder(out) as (folder, _):
                (folder / "a").write_bytes(b"new")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert (out / "a").read_bytes() == b"old"
        assert names(out) == ["a", MANIFEST]

    def test_new_files_never_stand_beside_an_old_manifest(self, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / MANIFEST).write_bytes(b"{}")
        with output_folder(out) as (folder, _):
            (folder / "a").write_bytes(b"new")
        assert names(out) == ["a"]  # its own manifest is the next step


class TestManifest:
    def test_it_says_input_options_and_hashes(self, tmp_path):
        path = made(tmp_path / "out.jsonl")
        found = json.loads((tmp_path / "out.jsonl.manifest.json").read_bytes())
        assert found["inputs"] == {"pairs": "abc"}
        assert found["options"] == {"k": 3}  # how to write is no part of what is written
        assert found["outputs"] == {"out.jsonl": hashlib.sha256(b"data").hexdigest()}
        assert (
            found.pop("manifest_sha256")
            == hashlib.sha256(json.dumps(found, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        )
        assert read_manifest(path) == found

    @pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b"\xff"])
    def test_one_that_cannot_be_read_is_none(self, tmp_path, data):
        path = made(tmp_path / "out")
        side = tmp_path / "out.manifest.json"
        side.unlink() if data is None else side.write_bytes(data)
        assert read_manifest(path) is None
        with pytest.raises(OutputError, match="--overwrite"):
            is_done(path, WANTED, overwrite=False)

    @pytest.mark.parametrize("found", [{}, {"stage": "other"}, WANTED | {"inputs": 3}, WANTED | {"options": ["k"]}])
    def test_one_of_another_making_is_no_crash(self, tmp_path, found):
        path = made(tmp_path / "out")
        (tmp_path / "out.manifest.json").write_bytes(artifacts.json_bytes(found))
        with pytest.raises(OutputError, match="--overwrite"):
            is_done(path, WANTED, overwrite=False)

    @pytest.mark.parametrize("found", [WANTED, WANTED | {"outputs": ["out"]}, WANTED | {"outputs": {}}], ids=str)
    def test_one_that_vouches_for_nothing_does_not_count(self, tmp_path, found):
        path = made(tmp_path / "out")
        (tmp_path / "out.manifest.json").write_bytes(artifacts.json_bytes(found))
        with pytest.raises(OutputError, match="--overwrite"):
            is_done(path, WANTED, overwrite=False)


class TestIsDone:
    def test_nothing_there(self, tmp_path):
        assert is_done(tmp_path / "out", WANTED, overwrite=False) is False
        assert is_done(tmp_path / "out", WANTED, ["a"], overwrite=False) is False
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "notes.txt").touch()
        assert is_done(tmp_path / "folder", WANTED, ["a"], overwrite=False) is False

    def test_the_same_is_done(self, tmp_path):
        path = made(tmp_path / "out")
        assert is_done(path, WANTED, overwrite=False) is True
        assert is_done(path, WANTED, overwrite=True) is True

    @pytest.mark.parametrize(
        ("wanted", "word"),
        [
            (manifest("other", {"pairs": "abc"}, OPTIONS), "stage"),
            (manifest("stage", {"pairs": "abd"}, OPTIONS), "pairs"),
            (manifest("stage", {"pairs": "abc", "model": "m"}, OPTIONS), "model"),
            (manifest("stage", {"pairs": "abc"}, {"k": 4}), "k = 3, not 4"),
            (manifest("stage", {"pairs": "abc"}, {}), "k"),
            (WANTED | {"kat_version": "0.0.0"}, "version"),
        ],
        ids=lambda v: v if isinstance(v, str) else "",
    )
    def test_another_question_is_refused_naming_the_difference(self, tmp_path, wanted, word):
        path = made(tmp_path / "out")
        with pytest.raises(OutputError, match=word) as caught:
            is_done(path, wanted, overwrite=False)
        assert "--overwrite" in str(caught.value)
        assert is_done(path, wanted, overwrite=True) is False
        assert path.read_bytes() == b"data"

    def test_damage_is_seen(self, tmp_path):
        path = made(tmp_path / "out")
        path.write_bytes(b"date")
        with pytest.raises(OutputError, match="damaged"):
            is_done(path, WANTED, overwrite=False)
        assert is_done(path, WANTED, overwrite=True) is False

    def test_a_folder_whose_file_is_gone(self, tmp_path):
        out = tmp_path / "out"
        with output_folder(out) as (folder, _):
            (folder / "a").write_bytes(b"1")
            (folder / "b").write_bytes(b"2")
            write_folder_manifest(folder, WANTED)
        assert is_done(out, WANTED, ["a", "b"], overwrite=False) is True
        (out / "b").unlink()
        with pytest.raises(OutputError, match="b is missing"):
            is_done(out, WANTED, ["a", "b"], overwrite=False)

    def test_a_folder_for_a_file_and_a_file_for_a_folder(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="folder"):
                is_done(tmp_path / "folder", WANTED, overwrite=overwrite)
            with pytest.raises(OutputError, match="file"):
                is_done(tmp_path / "file", WANTED, ["a"], overwrite=overwrite)

    def test_what_is_no_regular_file_is_never_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OutputError):
            is_done(tmp_path / "pipe", WANTED, overwrite=True)


class TestIds:
    def write(self, folder, value):
        (folder / "ids.json").write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return folder

    def test_a_list_of_strings(self, tmp_path):
        assert run_folder.load_ids(self.write(tmp_path, ["b", "a", "é"])) == ["b", "a", "é"]

    @pytest.mark.parametrize("value", ["{", {"a": 1}, [1], ["a", None], '"a"'], ids=repr)
    def test_anything_else(self, tmp_path, value):
        with pytest.raises(MismatchError, match=r"ids\.json"):
            run_folder.load_ids(self.write(tmp_path, value))

    def test_a_repeat_names_its_row(self, tmp_path):
        with pytest.raises(MismatchError, match="repeats the id b in row 3"):
            run_folder.load_ids(self.write(tmp_path, ["a", "b", "c", "b", "a"]))

    def test_no_file(self, tmp_path):
        with pytest.raises(MismatchError):
            run_folder.load_ids(tmp_path)


def test_arrays_are_never_unpickled(tmp_path):
    import numpy as np

    np.save(tmp_path / "good.npy", np.eye(3, dtype=np.float32))
    assert load_array(tmp_path / "good.npy").tolist() == np.eye(3).tolist()
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_bytes(b"hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    cut = (tmp_path / "good.npy").read_bytes()[:-4]
    (tmp_path / "cut.npy").write_bytes(cut)
    for name in ("objects", "text", "empty", "cut", "missing"):
        with pytest.raises(MismatchError, match=name):
            load_array(tmp_path / f"{name}.npy")


def test_a_hash_is_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
