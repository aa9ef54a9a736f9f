"""The approximate search against the exact one."""

import sys

import numpy as np
import pytest

import kat
from kat.errors import MismatchError, MissingExtraError, OptionError
from kat.neighbors.approximate import knn_approximate, recall


def cloud(n=4000, d=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_recall_is_the_share_of_true_neighbours():
    distances = np.asarray([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    assert recall(distances, np.asarray([2.0, 1.0])) == pytest.approx(5 / 6)


def test_finds_what_it_promises_and_leaves_self_out():
    pytest.importorskip("faiss")
    x = cloud()
    found = kat.find_neighbors(x, k=10, metric="euclidean", search="approximate")
    exact = kat.find_neighbors(x, k=10, metric="euclidean")
    same = [len(set(a) & set(b)) for a, b in zip(found.indices.tolist(), exact.indices.tolist(), strict=True)]
    assert 0.98 <= found.recall <= 1
    assert abs(sum(same) / found.indices.size - found.recall) < 0.01
    assert not (found.indices == np.arange(len(x))[:, None]).any()
    apart = np.linalg.norm(x[:, None].astype(np.float64) - x[found.indices], axis=-1)
    np.testing.assert_allclose(found.distances, apart, atol=1e-6)
    assert (np.diff(found.distances) >= 0).all()


def test_a_recall_under_the_limit_stops(monkeypatch):
    pytest.importorskip("faiss")
    import kat.neighbors.approximate as approximate

    monkeypatch.setattr(approximate, "recall", lambda *_: 0.7)
    with pytest.raises(MismatchError, match=r"recall of 0\.7000, under 0\.98"):
        knn_approximate(cloud(1000), 5)
    assert knn_approximate(cloud(1000), 5, least_recall=0.6)[2] == 0.7


def test_copies_are_expanded_as_in_the_exact_search():
    pytest.importorskip("faiss")
    x = np.concatenate([cloud(1000), np.repeat(cloud(1, seed=1), 30, 0)])
    found = kat.find_neighbors(x, k=5, search="approximate")
    assert found.multiplicity[-1] == 30
    assert (found.distances[-1] == 0).all()


def test_without_faiss_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'faiss-cpu>=1\.8'"):
        kat.find_neighbors(cloud(200), k=5, search="approximate")


def test_an_unknown_search_is_refused():
    with pytest.raises(OptionError, match="search"):
        kat.find_neighbors(cloud(50), k=5, search="magic")
