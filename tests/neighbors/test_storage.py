"""Neighbours on disk are checked some rows at a time: what is wrong must not depend on where a block ends."""

import numpy as np
import pytest

from kat.errors import MismatchError
from kat.neighbors import storage
from kat.neighbors.find import find_neighbors
from kat.neighbors.storage import check_neighbors, load_neighbors, save_neighbors
from kat.records import Embeddings

N, K = 40, 5
NAMES = ("indices.npy", "distances.npy", "multiplicity.npy")


@pytest.fixture(params=[7, 1000])
def kept(tmp_path, monkeypatch, request):
    """A folder of good neighbours, and blocks of 7 rows or of all."""
    monkeypatch.setattr(storage, "_ROWS", request.param)
    manifest = {"stage": "neighbors", "outputs": {}, "options": {"metric": "cosine"}}
    manifest["outputs"] = dict.fromkeys(NAMES)
    monkeypatch.setattr(storage, "readable_manifest", lambda folder: manifest)
    monkeypatch.setattr(storage, "first_damage", lambda *_: None)
    x = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    embeddings = Embeddings([f"id{i}" for i in range(N)], x)
    save_neighbors(find_neighbors(embeddings, K), tmp_path)
    return tmp_path, embeddings


def test_good_ones_pass_as_they_were(kept):
    folder, embeddings = kept
    assert "5 neighbours of each row" in check_neighbors(folder, list(embeddings.ids))
    read, searched = load_neighbors(folder, embeddings), find_neighbors(embeddings, K)
    np.testing.assert_array_equal(read.indices, searched.indices)
    np.testing.assert_array_equal(read.distances, searched.distances)


@pytest.mark.parametrize("row", [0, 6, 7, 33, N - 1])
@pytest.mark.parametrize("wrong", ["itself", "nobody", "order", "nan"])
def test_a_wrong_row_is_named_wherever_it_stands(kept, row, wrong):
    folder, embeddings = kept
    name = "indices.npy" if wrong in ("itself", "nobody") else "distances.npy"
    values = np.load(folder / name)
    values[row, 2] = {"itself": row, "nobody": N, "order": 0, "nan": np.nan}[wrong]
    np.save(folder / name, values)
    with pytest.raises(MismatchError, match=rf"row {row} \(id id{row}\) has neighbours"):
        check_neighbors(folder, list(embeddings.ids))
    if wrong != "itself":  # what is read is checked for what would be read wrongly
        with pytest.raises(MismatchError, match=name):
            load_neighbors(folder, embeddings)
