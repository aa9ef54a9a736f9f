"""Files of an input: order, what is refused, and a hash that follows from names and content alone."""

import hashlib
import json
import shutil
from random import Random

import pytest
from making import jsonl, pair

from kat.errors import InputError
from kat.inputs import input_files, input_hash, input_text, natural_key, would_hold


def names(named):
    return [file.name for file in input_files(named)]


def fill(folder, *files, row=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jsonl(row or pair(name)))
    return folder


def test_numbers_in_names_sort_as_numbers():
    want = ["a", "a1", "a1b2", "a1b10", "a2", "a10", "a010", "b1"]
    rng = Random(3)
    for _ in range(50):
        shuffled = rng.sample(want, len(want))
        found = sorted(shuffled, key=natural_key)
        assert [n for n in found if n not in ("a10", "a010")] == [n for n in want if n not in ("a10", "a010")]
    numbers = [f"part-{n}.jsonl" for n in range(120)]
    assert sorted(rng.sample(numbers, 120), key=natural_key) == numbers


def test_folder_glob_and_several_in_natural_order(tmp_path):
    fill(tmp_path / "d", *[f"p-{n}.jsonl" for n in (10, 2, 1)], "README.md", ".hidden", "_SUCCESS")
    want = ["p-1.jsonl", "p-2.jsonl", "p-10.jsonl"]
    assert names(tmp_path / "d") == want
    assert names(tmp_path / "d" / "p-*.jsonl") == want
    assert names([tmp_path / "d" / "p-10.jsonl", tmp_path / "d" / "p-1.jsonl"]) == [
        "p-10.jsonl",
        "p-1.jsonl",
    ]  # as told
    assert names(tmp_path / "*" / "p-1*.jsonl") == ["d/p-1.jsonl", "d/p-10.jsonl"]
    assert {file.source for file in input_files(tmp_path / "d")} == {"d"}
    assert {file.source for file in input_files(tmp_path / "d" / "p-*.jsonl")} == {"d"}
    assert input_text([tmp_path / "d", tmp_path / "*.jsonl"]) == f"{tmp_path / 'd'} '{tmp_path / '*.jsonl'}'"


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    fill(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert names(tmp_path / "a[1].jsonl") == ["a[1].jsonl"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["without a file of rows"]),
        (["README.md"], ["without a file of rows"]),
        (["a.jsonl", "b.parquet"], ["a.jsonl is JSON lines", "b.parquet is parquet"]),
        (["a.jsonl", "b.xyz"], ["b.xyz", "*.jsonl"]),
        (["train-0.jsonl", "test-0.jsonl"], ["splits: test, train", "train*"]),
        (["train.jsonl", "dev.jsonl.gz"], ["splits: train, validation"]),
        (["train/a.jsonl", "test/a.jsonl"], ["folders with files of rows: test, train"]),
        (["a.jsonl", "more/b.jsonl"], ["more"]),
    ],
)
def test_a_folder_of_several_things_is_refused(tmp_path, files, words):
    with pytest.raises(InputError) as caught:
        input_files(fill(tmp_path / "d", *files))
    for word in words:
        assert word in str(caught.value)


def test_what_is_missing_or_twice(tmp_path):
    fill(tmp_path, "a.jsonl")
    for named, word in [
        (tmp_path / "b*.jsonl", "matches no file"),
        (tmp_path / "aa.jsonl", "Did you mean"),
        ([tmp_path / "a.jsonl", tmp_path / "*.jsonl"], "named twice"),
        ([], "No input"),
    ]:
        with pytest.raises(InputError, match=word):
            input_files(named)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="named twice"):
        input_files(tmp_path / "*.jsonl")


def test_the_hash(tmp_path):
    folder = fill(tmp_path / "d", "1.jsonl", "2.jsonl")
    one = folder / "1.jsonl"
    assert input_hash(one) == hashlib.sha256(one.read_bytes()).hexdigest()
    whole = input_hash(folder)
    assert whole == input_hash(folder / "*.jsonl") == input_hash([folder / "1.jsonl", folder / "2.jsonl"])
    assert whole != input_hash([folder / "2.jsonl", folder / "1.jsonl"])
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "e")
    assert input_hash(moved) == whole  # of names inside, not of where it lies
    (moved / "2.jsonl").rename(moved / "3.jsonl")
    assert input_hash(moved) != whole
    fill(folder, "3.jsonl")
    assert input_hash(folder) != whole


def test_an_output_that_would_be_read_next_time(tmp_path):
    fill(tmp_path / "d", "a.jsonl")
    assert would_hold(tmp_path / "d", tmp_path / "d" / "out.jsonl")
    assert would_hold([tmp_path / "d" / "*.jsonl"], tmp_path / "d" / "out.jsonl")
    assert not would_hold(tmp_path / "d" / "*.jsonl", tmp_path / "d" / "out.txt")
    assert not would_hold(tmp_path / "d" / "*.jsonl", tmp_path / "d" / "x" / "out.jsonl")
    assert not would_hold(tmp_path / "d", tmp_path / "out.jsonl")
    assert not would_hold(tmp_path / "d" / "a.jsonl", tmp_path / "d" / "out.jsonl")


ROWS = [{"prompt": f"p{i}", "chosen": "c", "rejected": "r", "n": i} for i in range(2500)]


class TestSaved:
    """Folders of `datasets.save_to_disk`: the library itself is the oracle."""

    def test_the_rows_are_those_of_the_library(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        from kat.data.rows import read_rows

        data = datasets.Dataset.from_list(ROWS)
        for name, saved, shards in [
            ("one", data, None),
            ("many", data, 12),
            ("some", data.select(range(5, 1500, 7)), None),
            ("shuffled", data.shuffle(seed=1), 3),
        ]:
            saved.save_to_disk(tmp_path / name, num_shards=shards)
            rows = list(read_rows(tmp_path / name))
            assert [r.value for r in rows] == datasets.load_from_disk(tmp_path / name).to_list(), name
            assert [r.number for r in rows] == list(range(1, len(rows) + 1))

    def test_splits_are_named(self, tmp_path):
        datasets = pytest.importorskip("datasets")

        part = datasets.Dataset.from_list(ROWS[:9])
        datasets.DatasetDict({"test": part, "train": part}).save_to_disk(tmp_path / "d")
        with pytest.raises(InputError, match=f"test, train. Name one: {tmp_path / 'd' / 'train'}"):
            input_files(tmp_path / "d")
        assert names(tmp_path / "d" / "train") == ["data-00000-of-00001.arrow"]

    def test_an_incomplete_copy(self, tmp_path):
        (tmp_path / "dataset_info.json").write_text("{}")
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
        with pytest.raises(InputError, match=r"lacks data-0\.arrow"):
            input_files(tmp_path)
        (tmp_path / "state.json").write_text("[]")
        with pytest.raises(InputError, match="not that of a saved data set"):
            input_files(tmp_path)
        (tmp_path / "state.json").write_text(
            json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "i"}]})
        )
        with pytest.raises(InputError, match="flatten_indices"):
            input_files(tmp_path)
