"""Weights of openings and pairs from every place that they are read from, against the files themselves."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import kat
from kat.errors import InputError, OptionError
from kat.integrations.weights import opening_weights_of, pair_weights_of


@pytest.fixture(scope="module")
def run(demo_run, tmp_path_factory):
    """The demo's run with pair weights."""
    from kat.cli import main as cli

    folder = shutil.copytree(demo_run, tmp_path_factory.mktemp("weighed") / "demo") / "run"
    cli.main(["weigh-pairs", str(folder), "--validation_share", "0.2"])
    return folder


def test_openings_of_a_run_have_the_weights_of_its_files(run):
    ids = json.loads((run / "density" / "ids.json").read_text())
    expected = dict(zip(ids, np.load(run / "density" / "density_weights.npy").tolist(), strict=True))
    assert opening_weights_of(run) == opening_weights_of(run / "density") == expected
    assert opening_weights_of(expected) == expected


def test_a_file_of_pair_weights_gives_the_pairs_and_openings_that_train(run):
    path = run / "pair_weights.parquet"
    rows = [row for row in pq.read_table(path).to_pylist() if row["split"] == "train"]
    assert pair_weights_of(path) == {row["pair_id"]: row["v"] for row in rows}
    u = {row["opening_id"]: row["u"] for row in rows}  # every opening's pairs have the same
    mean = sum(u.values()) / len(u)
    assert opening_weights_of(path) == pytest.approx({x: 0.25 * one / mean + 0.75 for x, one in u.items()})


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_weights_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match=f"weight of pair b is {wrong}; expected a finite number from 0 up"):
        pair_weights_of({"a": 1, "b": wrong})


def test_weights_in_memory_and_of_a_run_are_those_of_the_file(run):
    path = run / "pair_weights.parquet"
    assert pair_weights_of(kat.read_pair_weights(path)) == pair_weights_of(path) == pair_weights_of(str(run))


@pytest.mark.parametrize("wrong", [[1.0, 2.0], 3, np.ones(2)])
def test_what_names_no_pairs_is_refused_with_what_does(wrong):
    with pytest.raises(OptionError, match=f"of type {type(wrong).__name__}; expected .*pair_weights=True.*pair id"):
        pair_weights_of(wrong)
