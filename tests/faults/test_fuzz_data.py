"""A short part of the fuzzing of data readers, and what it must be able to see."""

from pathlib import Path

import pytest

from faults.fuzz_data import Failure, case, file_of, fuzz
from kat.data import rows


def test_every_error_is_of_kat():
    assert fuzz(1200, seed=1) == []


def test_a_case_is_its_seed():
    from random import Random

    files = [file_of(Random(seed)) for seed in range(300)]
    assert files == [file_of(Random(seed)) for seed in range(300)]
    assert {Path(name).suffix for name, _ in files} >= {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz"}


@pytest.mark.parametrize("error", [RecursionError, KeyError, UnicodeEncodeError])
def test_another_error_is_a_failure(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error("utf-8", "x", 0, 1, "why") if error is UnicodeEncodeError else error("why")

    monkeypatch.setattr(rows, "input_files", broken)
    failures = [failure for seed in range(30) if (failure := case(seed, tmp_path))]
    assert failures
    assert all(isinstance(each, Failure) and error.__name__ in each.error for each in failures)
    assert not list(tmp_path.iterdir())
