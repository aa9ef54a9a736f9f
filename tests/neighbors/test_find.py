"""Neighbours against brute force in float64."""

import numpy as np
import pytest

import kat
from kat.errors import InputError, OptionError


def brute_force(x: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Sorted distances [N, k] to the nearest others, all pairs by difference in float64."""
    x = np.asarray(x, np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    np.fill_diagonal(apart, np.inf)
    return np.sort(apart, axis=1)[:, : min(k, len(x) - 1)]


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    blobs = np.repeat(rng.normal(size=(6, 8)), 40, 0)
    return {
        "random": rng.normal(size=(300, 16)),
        "duplicated": np.repeat(rng.normal(size=(20, 8)), rng.integers(1, 30, 20), 0),
        "clustered": blobs + 1e-4 * rng.normal(size=blobs.shape),
        "tied": np.stack(np.meshgrid(*[np.arange(1.0, 6)] * 3), -1).reshape(-1, 3),
        "few": rng.normal(size=(5, 4)),
        "line": rng.uniform(1, 2, size=(100, 1)),
        "collinear": np.outer(rng.uniform(1, 2, 150), np.ones(8)) + 1e-6 * rng.normal(size=(150, 8)),
        "far from the origin": 100 + rng.normal(size=(200, 8)),
        "one copied often": np.concatenate([rng.normal(size=(50, 4)), np.ones((60, 4))]),
    }


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", inputs())
def test_equals_brute_force(name, metric):
    x = inputs()[name].astype(np.float32)
    k = 10
    found = kat.find_neighbors(x, k=k, metric=metric)
    if metric == "cosine":  # what kat searches are float32 unit vectors
        norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        x = (x / norms).astype(np.float32)
    oracle = brute_force(x, k, "euclidean")
    assert found.distances.shape == oracle.shape
    np.testing.assert_allclose(found.distances, oracle, atol=1e-6)
    # The indices mean what the distances say, which with equal distances is the same set up to ties.
    rows = np.arange(len(x))[:, None]
    apart = np.linalg.norm(x[rows].astype(np.float64) - x[found.indices], axis=-1)
    np.testing.assert_allclose(apart, found.distances, atol=1e-6)
    assert not (found.indices == rows).any(), "self is no neighbour"
    assert all(len(set(r)) == len(r) for r in found.indices.tolist()), "nobody twice"


def test_spacing_skips_copies_and_multiplicity_counts_them():
    x = np.asarray([[0.0], [0.0], [0.0], [1.0], [3.0], [3.0]], np.float32)
    found = kat.find_neighbors(x, k=2, metric="euclidean")
    assert found.multiplicity.tolist() == [3, 3, 3, 1, 2, 2]
    assert found.distinct_distances.tolist() == [[1, 3], [1, 3], [1, 3], [1, 2], [2, 3], [2, 3]]
    assert found.distances.tolist() == [[0, 0], [0, 0], [0, 0], [1, 1], [0, 2], [0, 2]]


def test_negative_zero_is_zero():
    x = np.asarray([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], np.float32)
    assert kat.find_neighbors(x, k=1).multiplicity.tolist() == [2, 2, 1]


def test_k_shrinks_to_the_others():
    with pytest.warns(UserWarning, match="k is 3, not 20"):
        found = kat.find_neighbors(np.eye(4, dtype=np.float32), k=20)
    assert found.k == 3
    assert kat.find_neighbors(np.eye(1, dtype=np.float32), k=20).k == 0


def test_ids_travel():
    vectors = np.eye(3, dtype=np.float32)
    assert kat.find_neighbors(kat.Embeddings(["a", "b", "c"], vectors), k=1).ids == ["a", "b", "c"]


def broken(kind: str) -> np.ndarray:
    x = np.ones((5, 3), np.float32)
    if kind == "zero":
        x[3] = 0
    else:
        x[3, 1] = {"nan": np.nan, "infinity": -np.inf}[kind]
    return x


@pytest.mark.parametrize("kind", ["nan", "infinity", "zero"])
def test_an_unusable_row_is_named(kind):
    with pytest.raises(InputError, match="Row 3"):
        kat.find_neighbors(broken(kind), k=2)


@pytest.mark.parametrize("x", [np.ones(3), np.ones((0, 3)), np.ones((3, 0)), np.ones((2, 2, 2)), np.array([["a"]])])
def test_a_wrong_shape_is_refused(x):
    with pytest.raises(InputError, match="shape"):
        kat.find_neighbors(x, k=1)


def test_options_are_checked():
    with pytest.raises(OptionError, match="k is 0"):
        kat.find_neighbors(np.eye(3), k=0)
    with pytest.raises(OptionError, match="metric"):
        kat.find_neighbors(np.eye(3), k=1, metric="dot")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_queries_equal_brute_force_and_point_into_the_rows(metric):
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(120, 6)), rng.integers(1, 4, 120), 0).astype(np.float32)
    queries = np.concatenate([rng.normal(size=(30, 6)), x[:10]]).astype(np.float32)
    found = kat.find_neighbors(x, k=8, metric=metric, queries=queries)
    if metric == "cosine":
        x, queries = (a / np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True) for a in (x, queries))
        x, queries = x.astype(np.float32), queries.astype(np.float32)
    apart = np.linalg.norm(queries[:, None].astype(np.float64) - x[None], axis=-1)
    np.testing.assert_allclose(found.distances, np.sort(apart, axis=1)[:, :8], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(apart, found.indices, 1), found.distances, atol=1e-6)


def test_a_query_that_equals_a_row_is_measured_like_it():
    rng = np.random.default_rng(2)
    x = np.repeat(rng.normal(size=(100, 5)), rng.integers(1, 5, 100), 0).astype(np.float32)
    rows, asked = kat.find_neighbors(x, k=7), kat.find_neighbors(x, k=7, queries=x)
    np.testing.assert_array_equal(asked.multiplicity, rows.multiplicity)
    np.testing.assert_allclose(asked.distinct_distances, rows.distinct_distances, atol=1e-7)


def test_queries_of_another_width_are_refused():
    with pytest.raises(InputError, match="3 columns"):
        kat.find_neighbors(np.eye(4), k=1, queries=np.ones((2, 3)))


def test_centring_takes_off_the_mean_before_the_cosine():
    x = np.random.default_rng(3).normal(size=(200, 6)) + 5
    centred = (x - x.mean(0)).astype(np.float32)
    found, oracle = kat.find_neighbors(x, k=5, center=True), kat.find_neighbors(centred, k=5)
    np.testing.assert_allclose(found.distances, oracle.distances, atol=1e-5)
    assert (found.distances > kat.find_neighbors(x, k=5).distances).mean() > 0.99


def test_halves_are_disjoint_and_leave_self_out():
    """Against brute force with the same rule of which row is in which half."""
    from kat.neighbors.find import row_hash

    rng = np.random.default_rng(4)
    x = np.concatenate([rng.normal(size=(300, 5)), np.ones((4, 5))]).astype(np.float32)
    halves = kat.find_neighbors(x, k=12, metric="euclidean").halves
    left = (row_hash(x) & 1).astype(bool)
    assert 100 < left.sum() < 204
    distinct = np.arange(301)  # the copies of the last row bring nothing new
    assert sorted(halves.rows.tolist()) == distinct.tolist()
    for side, found in ((left, halves.first), (~left, halves.second)):
        others = x[distinct[side[distinct]]].astype(np.float64)
        apart = np.linalg.norm(x[halves.rows].astype(np.float64)[:, None] - others[None], axis=-1)
        apart[apart == 0] = np.inf
        np.testing.assert_allclose(found, np.sort(apart, axis=1)[:, :6], atol=1e-6)


def test_halves_do_not_depend_on_the_order_of_rows():
    x = np.random.default_rng(5).normal(size=(5000, 4)).astype(np.float32)
    order = np.random.default_rng(6).permutation(len(x))
    one, other = kat.find_neighbors(x, k=6).halves, kat.find_neighbors(x[order], k=6).halves
    assert len(one.rows) == 2000
    assert sorted(one.rows.tolist()) == sorted(order[other.rows].tolist())


def test_too_few_rows_have_no_halves():
    assert kat.find_neighbors(np.random.default_rng(7).normal(size=(30, 3)), k=3).halves is None


@pytest.mark.parametrize("queries", [None, 7])
def test_the_bar_counts_texts_as_the_summary_does(monkeypatch, queries):
    bars, rng = [], np.random.default_rng(0)

    class Bar:
        def __init__(self, *, total, unit, **_):
            self.total, self.unit, self.n, self.closed = total, unit, 0, False
            bars.append(self)

        def update(self, n):
            assert n >= 0
            assert not self.closed
            self.n += n

        def close(self):
            self.closed = True

    monkeypatch.setattr("tqdm.tqdm", Bar)
    x = rng.normal(size=(3000, 8)).astype(np.float32)
    asked = None if queries is None else rng.normal(size=(queries, 8)).astype(np.float32)
    kat.find_neighbors(x, 5, "euclidean", queries=asked)
    (bar,) = bars
    assert (bar.unit, bar.total, bar.n, bar.closed) == (" texts", queries or 3000, queries or 3000, True)
