"""A command that fails or is interrupted leaves no folder that it made and that nothing ended in."""

from __future__ import annotations

import signal

import pytest
from making import jsonl, pair, write

from kat.atomic import atomic_file, new_folder
from kat.outputs import output_folder


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "in").mkdir()
    return write(tmp_path / "in" / "pairs.jsonl", jsonl(*(pair(f"q{i}") for i in range(6)), b"{"))


def new(tmp_path):
    return sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.parts[len(tmp_path.parts)] != "in"
    )


def test_too_many_bad_rows(kat_cli, pairs, tmp_path):
    kat_cli("prefixes", pairs, "--out", tmp_path / "a" / "b" / "o.jsonl").failed()
    kat_cli("run", pairs, "--out", tmp_path / "RUN").failed()
    assert new(tmp_path) == []


def test_a_model_that_is_not_there_and_an_option_out_of_range(kat_cli, pairs, tmp_path):
    prompts = tmp_path / "in" / "p.jsonl"
    assert kat_cli("prefixes", pairs, "--out", prompts, "--max_bad_rows", "1").rc == 0
    kat_cli("embed", prompts, "--out", tmp_path / "RUN" / "e", "--model", "nowhere").failed()
    kat_cli("embed", prompts, "--out", tmp_path / "RUN" / "e", "--max_tokens", "-3").failed()
    kat_cli("export-model", "nowhere", "--out", tmp_path / "M" / "m").failed()
    assert new(tmp_path) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal(kat_cli, pairs, tmp_path, monkeypatch, name):
    number = getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    inherited = signal.signal(number, usual)  # what runs in the background ignores SIGINT

    def stop(*args, **_):
        assert len(new(tmp_path)) > 2  # folders and temporaries are there
        signal.raise_signal(number)

    monkeypatch.setattr("kat.stages.prefixes.collect_openings", stop)
    try:
        ran = kat_cli("run", pairs, "--out", tmp_path / "deep" / "RUN", "--max_bad_rows", "1")
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, inherited)
    assert ran.rc == 128 + number
    assert len(ran.stderr.splitlines()) == 1
    assert "kat: interrupted" in ran.stderr
    assert new(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("make", [new_folder, output_folder, lambda path: atomic_file(path / "f")])
def test_only_what_was_new_and_is_empty_goes(tmp_path, make, error):
    (tmp_path / "old").mkdir()
    with pytest.raises(error), make(tmp_path / "old" / "new" / "newer"):
        raise error
    assert new(tmp_path) == ["old"]
    with pytest.raises(error), make(tmp_path / "old" / "new" / "newer"):  # noqa: PT012
        (tmp_path / "old" / "new" / "somebody's").write_text("")
        raise error
    assert new(tmp_path) == ["old", "old/new", "old/new/somebody's"]
    with make(tmp_path / "kept" / "empty"):
        pass
    assert (tmp_path / "kept").is_dir()
