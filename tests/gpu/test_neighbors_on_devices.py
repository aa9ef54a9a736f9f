"""Neighbours by float32 products on a device: index for index those of the processor and of float64 differences."""

import numpy as np
import pytest

import kat
from kat.neighbors.exact import knn_query, knn_self

K = 12


def rows_of(name: str, n: int) -> np.ndarray:
    """Rows [n, D] float32: clustered, with many duplicates, with many ties, or far from the origin."""
    draw = np.random.default_rng(5)
    normal = draw.standard_normal
    sets = {
        "clustered": lambda: normal((n // 50, 48))[draw.integers(0, n // 50, n)] + 0.3 * normal((n, 48)),
        "tight clusters": lambda: normal((9, 33))[draw.integers(0, 9, n)] + 1e-3 * normal((n, 33)),
        "duplicates": lambda: normal((n // 8, 20))[draw.integers(0, n // 8, n)],
        "ties": lambda: draw.integers(0, 4, (n, 6)),
        "offset": lambda: 1e3 + normal((n, 17)),
    }
    return np.ascontiguousarray(sets[name](), np.float32)


NAMES = ("clustered", "tight clusters", "duplicates", "ties", "offset")


def brute_force(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The K nearest others [R, K] of some rows, ties by the smaller index."""
    nearest = []
    for row in rows:
        distances = np.square(x.astype(np.float64) - x[row]).sum(1)
        distances[row] = np.inf
        nearest.append(np.argsort(distances, kind="stable")[:K])
    return np.stack(nearest)


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_are_those_of_brute_force(name, device):
    x = rows_of(name, 900)
    indices, distances = knn_self(x, K, device=device, products="topk")
    on_processor = knn_self(x, K)
    np.testing.assert_array_equal(indices, on_processor[0])
    np.testing.assert_array_equal(distances, on_processor[1])
    np.testing.assert_array_equal(indices, brute_force(x, np.arange(len(x))))
    asked = x[:100] + np.float32(0.25)
    for of_device, other in zip(
        *(knn_query(asked, x, K, **how) for how in ({"device": device, "products": "topk"}, {})), strict=True
    ):
        np.testing.assert_array_equal(of_device, other)


@pytest.mark.parametrize("name", ["clustered", "duplicates", "ties"])
def test_many_rows(name, device):
    """More than a block of queries and of points, and duplicates that are searched for once."""
    x = rows_of(name, 2000 if device == "cpu" else 40_000)
    got = kat.find_neighbors(x, K, metric="euclidean", device=device)
    expected = kat.find_neighbors(x, K, metric="euclidean", device="cpu")
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.distances, expected.distances)
    for half, other in zip(vars(got.halves).values(), vars(expected.halves).values(), strict=True):
        np.testing.assert_array_equal(half, other)
