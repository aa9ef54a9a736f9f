"""The list of experiments: each part once, and every pair by its set."""

import orjson
import pytest

from experiments import results


def test_a_part_is_computed_once_and_its_table_stands_beside_it(tmp_path, monkeypatch):
    computed = []

    def compute(work):
        computed.append(work.data)
        return {"value": 3}

    monkeypatch.setattr(results, "PARTS", {"one": (compute, lambda told: f"value {told['value']}")})
    for _ in range(2):
        assert "value 3" in results.Work(tmp_path / "data", tmp_path / "out").part("one")
    assert computed == [tmp_path / "data"]
    assert (tmp_path / "out" / "one.md").read_text() == "value 3\n"
    assert {"value", "seconds", "made_with"} <= set(orjson.loads((tmp_path / "out" / "one.json").read_bytes()))


def test_what_fails_leaves_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PARTS", {"one": (lambda _: 1 / 0, str)})
    with pytest.raises(ZeroDivisionError):
        results.Work(tmp_path, tmp_path / "out").part("one")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pair_id", "name"),
    [
        ("hh-hb-test-00002", "HH"),
        ("hh_test_1-1", "HH"),
        ("or-hh_-00001", "HH"),
        ("or-shp-00001", "SHP"),
        ("rmb-000001", "RMB"),
        ("fgqa-0-02", "FineGrained QA"),
        ("uf-eval_200-0000", "UltraFeedback"),
        ("webgpt_test_5-0", "WebGPT"),
    ],
)
def test_a_pair_is_of_one_set_by_its_id(pair_id, name):
    assert results.set_of(pair_id) == name
    assert sum(pair_id.startswith(begin) for begin in results.SETS) == 1


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"pairs\.tldr\.all\.jsonl\.gz does not exist"):
        results.Work(tmp_path, tmp_path / "out").mixture()
