"""Distances between contexts, by hand and by brute force."""

import numpy as np
import pytest

from kat.density.contexts import context_spread


def test_by_hand():
    """Two contexts at a right angle, three alike, one opening far from all others."""
    x, y = np.eye(2, dtype=np.float32)
    spread = context_spread(np.stack([x, y, x, x, x]), np.array([0, 0, 1, 1, 1]), np.array([0.5, 0.7, 0.9]))
    assert (spread.openings, spread.contexts) == (2, 5)
    assert spread.within == pytest.approx(np.sqrt(2) / 2)  # the median of √2 and 0
    assert spread.nearest == pytest.approx(0.7)
    assert spread.apart
    assert not context_spread(np.stack([x, x]), np.array([3, 3]), np.array([0.1])).apart


def test_by_brute_force():
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(40), draw.integers(2, 6, 40))
    vectors = draw.normal(size=(len(group), 7)).astype(np.float32)
    order = draw.permutation(len(group))
    means = []
    for one in range(40):
        members = vectors[group == one].astype(float)
        apart = [np.linalg.norm(a - b) for i, a in enumerate(members) for b in members[:i]]
        means.append(np.mean(apart))
    spread = context_spread(vectors[order], group[order], np.ones(3))
    assert spread.within == pytest.approx(np.median(means))
