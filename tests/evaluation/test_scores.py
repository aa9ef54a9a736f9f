"""Files of rewards: the formats that people have, and what is said of rows that hold none."""

import json

import numpy as np
import pytest
from making import jsonl, write

from kat import opening_id
from kat.errors import BadRowsError, InputError, MismatchError
from kat.evaluation.scores import NAMES, check_same_pairs, pairs_of, read_scores


@pytest.mark.parametrize(("chosen", "rejected"), NAMES)
@pytest.mark.parametrize("name", ["pair_id", "id"])
def test_names_that_people_give_rewards(tmp_path, chosen, rejected, name):
    rows = [{name: "a", chosen: 1.5, rejected: -2}, {name: 7, chosen: [0.25], rejected: [1]}]
    found = read_scores(write(tmp_path / "s.jsonl", jsonl(*rows)))
    assert found.ids == ["a", "7"]
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([1.5, 0.25], [-2.0, 1.0])
    assert not found.numbered


@pytest.mark.parametrize("name", ["s.jsonl.gz", "s.jsonl.zst"])
def test_compressed_files(tmp_path, name):
    found = read_scores(write(tmp_path / name, jsonl({"id": "a", "chosen": 1, "rejected": 0})))
    assert found.ids == ["a"]


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"pair_id": ["a", "b"], "chosen": [1.0, 2.0], "rejected": [0.0, 3.0]}), tmp_path / "s.parquet"
    )
    found = read_scores(tmp_path / "s.parquet")
    assert (found.chosen - found.rejected).tolist() == [1.0, -1.0]


def test_texts_beside_rewards_are_not_taken_for_them(tmp_path):
    row = {
        "id": "a",
        "chosen": "text",
        "rejected": "text",
        "score_chosen": 2.0,
        "score_rejected": 1.0,
        "prompt": "How?",
    }
    found = read_scores(write(tmp_path / "s.jsonl", jsonl(row)))
    assert (found.chosen[0], found.opening[0]) == (2.0, opening_id("How?"))


def test_rewardbench_columns(tmp_path):
    value = {
        "id": [3, 4, 5],
        "subset": ["alpacaeval-easy", "hep-cpp", "hep-cpp"],
        "text_chosen": ["x", "y", "z"],
        "results": [1, 0, 1],
        "scores_chosen": [[1.0], 2.0, 0.5],
        "scores_rejected": [[0.0], 3.0, 0.25],
        "model": "some/model",
    }
    for name in ("s.json", "s.jsonl"):
        found = read_scores(write(tmp_path / name, json.dumps(value).encode()))
        assert found.ids == ["3", "4", "5"]
        assert found.src == ["alpacaeval-easy", "hep-cpp", "hep-cpp"]
        assert ((found.chosen > found.rejected).astype(int)).tolist() == value["results"]


@pytest.mark.parametrize("name", ["subset", "scores_rejected"])
def test_rewardbench_columns_of_several_lengths(tmp_path, name):
    value = {"id": [3, 4], "subset": ["a", "b"], "scores_chosen": [1.0, 2.0], "scores_rejected": [0.0, 3.0]}
    value |= {name: value[name][:1], "notes": ["of any length"]}
    for file in ("s.json", "s.jsonl"):
        with pytest.raises(InputError, match=rf"{file}:1: {name} has 1 values, and id 2; expected one for each pair"):
            read_scores(write(tmp_path / file, json.dumps(value).encode()))


def test_rewardbench_lines_without_ids(tmp_path):
    rows = [{"chosen": 1.0, "rejected": 0.0}, {"chosen": "?", "rejected": 0.0}, {"chosen": 2.0, "rejected": 4.0}]
    found = read_scores(write(tmp_path / "m_all.jsonl", jsonl(*rows)), 1)
    assert found.numbered
    assert found.ids == ["1", "3"]  # by line, so that another file with another bad row still fits
    assert found.bad == 1


def test_rewardbench_2_pairs_every_chosen_with_every_rejected(tmp_path):
    rows = [
        {"id": "a", "subset": "Math", "scores": [3.0, 1.0, 2.0, 5.0], "num_correct": 1},
        {"id": "t", "subset": "Ties", "scores": [3.0, 2.0, 1.0], "num_correct": 2},
    ]
    found = read_scores(write(tmp_path / "s.jsonl", jsonl(*rows)))
    assert found.ids == ["a/0-1", "a/0-2", "a/0-3", "t/0-2", "t/1-2"]
    assert (found.chosen - found.rejected).tolist() == [2.0, 1.0, -2.0, 2.0, 1.0]
    pairs = pairs_of(found)
    assert pairs.clusters().tolist() == [0, 0, 0, 1, 1]
    assert pairs.src == ["Math"] * 3 + ["Ties"] * 2


def test_openings_are_those_of_the_prompts(tmp_path):
    rows = [
        {"id": "a", "chosen": 1, "rejected": 0, "prompt": "Why  so?"},
        {"id": "b", "chosen": 1, "rejected": 0, "prompt": [{"role": "user", "content": "Why so?"}]},
        {"id": "c", "chosen": 1, "rejected": 0, "opening_id": "xyz"},
        {"id": "d", "chosen": 1, "rejected": 0},
        {"id": "e", "chosen": 1, "rejected": 0},
    ]
    pairs = pairs_of(read_scores(write(tmp_path / "s.jsonl", jsonl(*rows))))
    assert pairs.opening[0] == pairs.opening[1] == opening_id("Why so?")
    assert pairs.opening[2] == "xyz"
    assert len(set(pairs.opening)) == 4


BAD = {
    "no two rewards": {"id": "x"},
    "a reward that is not a number": {"id": "x", "chosen": "1.5", "rejected": 0},
    "not JSON": "{",
    "NaN or Infinity, which is not JSON": '{"id": "x", "chosen": NaN, "rejected": 0}',
    "a reward that is not finite, or 1e+100 and more": '{"id": "x", "chosen": 1e308, "rejected": 0}',
    "an id that stood before": {"id": "a", "chosen": 1, "rejected": 0},
    "an id that is neither text nor a whole number": {"id": 1.5, "chosen": 1, "rejected": 0},
    "scores of which num_correct does not say which are chosen": {"id": "x", "scores": [1.0, 2.0], "num_correct": 2},
    "several scores without an id": {"scores": [1.0, 2.0], "num_correct": 1},
    "not a JSON object": "[1]",
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows_are_counted_with_their_place(tmp_path, reason):
    path = write(tmp_path / "s.jsonl", jsonl({"id": "a", "chosen": 1, "rejected": 0}, BAD[reason]))
    with pytest.raises(BadRowsError) as error:
        read_scores(path)
    ((found, (count, where)),) = error.value.counts.items()
    assert count == 1
    assert where.endswith("s.jsonl:2")
    assert reason in found or "number" in found or "JSON" in found
    assert len(read_scores(path, 1)) == 1


def test_booleans_are_no_rewards(tmp_path):
    path = write(tmp_path / "s.jsonl", jsonl({"id": "a", "chosen": True, "rejected": False}))
    with pytest.raises(BadRowsError, match="not a number"):
        read_scores(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_scores(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="does not exist"):
        read_scores(tmp_path / "no.json")
    with pytest.raises(InputError, match="is no JSON"):
        read_scores(write(tmp_path / "bad.json", b"{"))
    with pytest.raises(InputError, match="holds int"):
        read_scores(write(tmp_path / "list.json", b"[1]"))
    with pytest.raises(InputError, match="holds no rewards"):
        read_scores(write(tmp_path / "empty.jsonl", b"\n"))
    some = [{"id": "a", "chosen": 1, "rejected": 0}, {"chosen": 1, "rejected": 0}]
    with pytest.raises(InputError, match="some rows have an id"):
        read_scores(write(tmp_path / "half.jsonl", jsonl(*some)))


def test_two_files_score_the_same_pairs(tmp_path):
    rows = [{"id": i, "chosen": 1, "rejected": 0} for i in "abc"]
    one = read_scores(write(tmp_path / "one.jsonl", jsonl(*rows)))
    check_same_pairs(one, read_scores(write(tmp_path / "two.jsonl", jsonl(*rows[::-1]))))
    less = read_scores(write(tmp_path / "less.jsonl", jsonl(*rows[1:])))
    for pair in ((one, less), (less, one)):
        with pytest.raises(MismatchError, match=r"less\.jsonl has no rewards for 1 pairs .* first a"):
            check_same_pairs(*pair)
    np.testing.assert_array_equal(one.rows(["c", "a"]), [2, 0])
