"""Neighbours among some rows: what a search among them alone gives, without one wherever the lists reach far enough."""

import numpy as np
import pytest

import kat.neighbors.among as among
from kat.neighbors.among import neighbors_among
from kat.neighbors.find import find_neighbors


def crowds(n, columns, copies, rng):
    """Points around some centres, `copies` of them the same as another."""
    centres = rng.normal(size=(max(n // 20, 1), columns))
    x = (centres[rng.integers(0, len(centres), n)] + rng.normal(0, 0.3, (n, columns))).astype(np.float32)
    same = rng.choice(n, copies, replace=False)
    x[same] = x[rng.integers(0, min(n, 4), copies)] if copies else x[same]
    return x


def searched(x, inside, rows, k, metric):
    """The same by a search of its own: lists of all others inside, cut to k."""
    own = np.full(len(x), -1)
    own[inside] = np.arange(len(inside))
    near = find_neighbors(x[inside], len(inside), metric, queries=x[rows])
    k, others = min(k, len(inside)), min(k, len(np.unique(x[inside], axis=0)) - 1)
    indices, distances = np.zeros((2, len(rows), k))
    for m, row in enumerate(rows):
        keep = near.indices[m] != own[row]
        held = min(k, int(keep.sum()))
        indices[m, :held], distances[m, :held] = near.indices[m][keep][:k], near.distances[m][keep][:k]
    return indices, distances, near.distinct_distances[:, :others], near.multiplicity


@pytest.mark.filterwarnings("ignore:k is")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("copies", [0, 5, 60, 190])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("stored", [8, 40])
def test_the_same_as_a_search_among_them(metric, copies, share, stored):
    rng = np.random.default_rng(copies + int(100 * share) + stored)
    x = crowds(200, 6, copies, rng)
    inside = np.sort(rng.choice(200, max(int(share * 200), 1), replace=False))
    rows = rng.permutation(200)
    near = neighbors_among(find_neighbors(x, stored, metric), inside, rows, 7, vectors=x)
    indices, distances, apart, multiplicity = searched(x, inside, rows, 7, metric)
    np.testing.assert_array_equal(near.distances, distances)
    np.testing.assert_array_equal(near.distinct_distances, apart)
    np.testing.assert_array_equal(near.multiplicity, multiplicity)
    # Which of several rows at one distance are named is open; that they are at it is not.
    ties = near.indices != indices
    measured = find_neighbors(x[inside], len(inside), metric, queries=x[rows])
    for m, rank in np.argwhere(ties):
        at = np.flatnonzero(measured.indices[m] == near.indices[m, rank])
        assert measured.distances[m, at] == distances[m, rank]
    assert near.targets == [str(i) for i in inside]
    assert near.ids == [str(i) for i in rows]


def test_no_search_where_the_lists_reach(monkeypatch):
    rng = np.random.default_rng(0)
    x = crowds(400, 6, 0, rng)
    neighbors = find_neighbors(x, 50)
    asked = []
    monkeypatch.setattr(
        among,
        "find_neighbors",
        lambda *a, queries, **o: asked.append(queries) or find_neighbors(*a, queries=queries, **o),
    )
    inside = np.sort(rng.choice(400, 360, replace=False))
    neighbors_among(neighbors, inside, np.arange(400), 20, vectors=x)
    assert not asked
    neighbors_among(neighbors, inside[:100], np.arange(400), 20, vectors=x)
    (queries,) = asked
    held = np.isin(neighbors.indices, inside[:100]).sum(1)
    assert len(queries) == (held < 20).sum() > 0
