"""The log of a run: a line for each output that was made in it, and nothing that it could break."""

import json
import os

import pytest
from making import jsonl, pair, write

from kat import run_log
from kat.errors import InputError
from kat.run_log import Clock, logged, peak_memory, read_log
from kat.terminal import command_line

FIRST = b'{"kat_log":1}\n'
SPLIT = ("--split", "opening", "--validation_share", "0.3")


@pytest.fixture
def run(kat_cli, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", jsonl(*(pair(f"question {i}") for i in range(8))))
    command = ["run", pairs, "--out", tmp_path / "run", "--device", "cpu", "--processes", 1]
    assert kat_cli(*command).rc == 0
    return tmp_path / "run"


def test_every_stage_of_a_run_has_a_line(run, kat_cli, tmp_path):
    stages = ["prefixes", "embed", "neighbors", "density", "report"]
    entries = read_log(run)
    assert [one["stage"] for one in entries] == stages
    assert [one["out"] for one in entries] == [
        "prefixes_all.jsonl",
        "embeddings",
        "density/neighbors",
        "density",
        "report.html",
    ]
    for one in entries:
        assert one["seconds"] > 0
        assert one["peak_memory_bytes"] > 10_000_000
        assert one["numpy"]
        assert one["command"] == command_line()
    assert kat_cli("weigh-pairs", run, *SPLIT).rc == 0
    assert [one["stage"] for one in read_log(run)] == [*stages, "weigh-pairs"]
    again = kat_cli("weigh-pairs", run, *SPLIT)  # nothing is made, nothing is logged
    assert again.rc == 0
    assert len(read_log(run)) == 6
    elsewhere = kat_cli("sample", run, "--budget", 2, "--out", tmp_path / "ids.txt")
    assert elsewhere.rc == 0
    assert len(read_log(run)) == 6
    verified = kat_cli("verify", run)
    assert verified.rc == 0
    assert "log.jsonl" not in verified.stdout


def test_without_a_log_a_run_goes_on(run, kat_cli):
    (run / "log.jsonl").unlink()
    assert kat_cli("weigh-pairs", run, *SPLIT).rc == 0
    assert not (run / "log.jsonl").exists()
    assert read_log(run) == []


def test_another_file_of_the_name_is_left_alone(run, kat_cli):
    for content in (b"mine\n", b"", b'{"kat_log":1}', b'{"kat_log":2}\n{"a":1}\n', bytes(range(256))):
        (run / "log.jsonl").write_bytes(content)
        assert kat_cli("weigh-pairs", run, *SPLIT, "--overwrite", "--seed", len(content)).rc == 0
        with logged(run):
            pass
        assert (run / "log.jsonl").read_bytes() == content
        assert read_log(run) == []


def test_a_line_that_was_cut_spoils_no_other(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(FIRST + b'{"stage":"first"}\n[1]\n{"stage":"cu')
    Clock().log("third", tmp_path / "out")
    Clock().log("fourth", tmp_path / "a" / "b" / "out")
    Clock().log("too deep", tmp_path / "a" / "b" / "c" / "out")
    assert [one["stage"] for one in read_log(tmp_path)] == ["first", "third", "fourth"]
    assert path.read_bytes().startswith(FIRST + b'{"stage":"first"}\n[1]\n{"stage":"cu\n')


def test_one_that_cannot_be_written_is_said(run, kat_cli, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_log, "peak_memory", full)
    ran = kat_cli("weigh-pairs", run, *SPLIT)
    assert ran.rc == 0
    assert "No space left on device): no times are kept of what is complete" in ran.stderr
    assert (run / "pair_weights.parquet").is_file()


def test_one_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"log.jsonl is a folder"):
        read_log(tmp_path)


def test_memory_counts_from_the_clock_on():
    before = bytearray(200_000_000)
    before[::4096] = b"x" * len(before[::4096])
    most = peak_memory()
    assert most > 200_000_000
    del before
    Clock()
    assert peak_memory() < most - 150_000_000 or not os.access("/proc/self/clear_refs", os.W_OK)


def test_what_is_written_is_one_object_a_line(run):
    first, *lines = (run / "log.jsonl").read_bytes().splitlines()
    assert first + b"\n" == FIRST
    assert [json.loads(line) for line in lines] == read_log(run)


def fail(run, *, done):
    with logged(run):
        assert (run / "log.jsonl").read_bytes().startswith(FIRST)
        if done:
            Clock().log("prefixes", run / "out")
        raise ValueError("failed")


def test_a_log_of_nothing_goes_with_what_failed(tmp_path):
    for done in (False, True):
        with pytest.raises(ValueError, match="failed"):
            fail(tmp_path, done=done)
        assert (tmp_path / "log.jsonl").exists() == done
    with pytest.raises(ValueError, match="failed"):
        fail(tmp_path, done=False)
    assert [one["stage"] for one in read_log(tmp_path)] == ["prefixes"]


@pytest.mark.parametrize(
    "line", [b'{"stage":7}', b'{"out":[1]}', b'{"seconds":"x"}', b'{"torch":{}}', b"7", b"{", b"\xff"]
)
def test_a_line_that_was_changed_is_left_out(tmp_path, line):
    (tmp_path / "log.jsonl").write_bytes(FIRST + line + b'\n{"stage":"embed","seconds":1.5}\n')
    assert read_log(tmp_path) == [{"stage": "embed", "seconds": 1.5}]
