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
    assert found.spacing.tolist() == [[1, 3], [1, 3], [1, 3], [1, 2], [2, 3], [2, 3]]
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
