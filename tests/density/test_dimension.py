"""Intrinsic dimension of data that have a known one."""

import numpy as np
import pytest

import kat
from kat.density import dimension
from kat.density.dimension import intrinsic_dimension, two_nn


@pytest.mark.parametrize("estimate", [two_nn, intrinsic_dimension])
@pytest.mark.parametrize("d", [2, 5, 10])
def test_intrinsic_dimension_of_flat_data(d, estimate):
    rng = np.random.default_rng(3)
    x = rng.uniform(size=(8000, d)) @ np.linalg.qr(rng.normal(size=(50, d)))[0].T
    found = estimate(kat.find_neighbors(x, k=20, metric="euclidean").distinct_distances)
    assert found == pytest.approx(d, rel=0.2)


def test_intrinsic_dimension_reads_each_distinct_row_once():
    rng = np.random.default_rng(4)
    x, often = rng.normal(size=(500, 4)), np.ones((300, 4))
    alone = kat.find_neighbors(np.concatenate([x, often[:1]]), k=20, metric="euclidean").distinct_distances
    copied = kat.find_neighbors(np.concatenate([x, often]), k=20, metric="euclidean")
    found = intrinsic_dimension(copied.distinct_distances, copied.multiplicity)
    assert found == pytest.approx(intrinsic_dimension(alone), rel=1e-6)


def test_two_nn_closed_form():
    """Ratios drawn from the Pareto law that TwoNN assumes give its exponent back."""
    ratio = np.random.default_rng(4).pareto(7.0, 200_000) + 1
    assert two_nn(np.stack([np.ones_like(ratio), ratio], 1)) == pytest.approx(7.0, rel=0.02)


def test_rows_taken_in_blocks_give_what_all_give(monkeypatch):
    draw = np.random.default_rng(5)
    powers = np.linspace(0.05, 0.5, 100)[:, None]
    distances = draw.exponential(size=(100, 6)).cumsum(axis=1).astype(np.float32) ** powers
    copies = draw.integers(1, 9, 100)
    together = intrinsic_dimension(distances, copies)
    radii = distances.astype(np.float64)
    ratios = [np.mean([np.log(row[-1] / r) for r in row[:-1]]) for row in radii]
    assert together == pytest.approx(1 / np.average(ratios, weights=1 / copies), rel=1e-12)
    monkeypatch.setattr(dimension, "_ROWS", 7)
    assert intrinsic_dimension(distances, copies) == together
