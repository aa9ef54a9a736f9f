"""Clusters of openings against groups that are planted, and against scikit-learn."""

import numpy as np
import pytest

from kat.errors import OptionError
from kat.pair_weights.clusters import cluster_openings


def planted(seed: int = 0, groups: int = 6, n: int = 600, d: int = 24, spread: float = 0.15):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, d))
    own = rng.choice(groups, n, p=np.arange(1, groups + 1) / (groups * (groups + 1) / 2))
    x = centres[own] + spread * np.sqrt(d) * rng.normal(size=(n, d)) / np.sqrt(d)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), own, [f"id{i:04d}" for i in range(n)]


def test_planted_groups_are_found_and_numbered_by_size():
    x, own, ids = planted()
    found = cluster_openings(x, ids, 6, 0)
    assert len({(a, b) for a, b in zip(own.tolist(), found.tolist(), strict=True)}) == 6
    size = np.bincount(found)
    assert (np.diff(size) <= 0).all()


def test_every_row_is_with_its_nearest_mean_and_no_worse_than_a_peers():
    from sklearn.cluster import KMeans

    x, _, ids = planted(seed=3, groups=9, n=500, spread=0.6)
    found = cluster_openings(x, ids, 8, 0)
    means = np.stack([x[found == c].mean(axis=0) for c in range(8)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (np.argmax(x @ means.T, axis=1) == found).all()  # a fixed point of the definition
    fit = float((x * means[found]).sum())
    peers = [KMeans(8, n_init=1, random_state=s).fit(x) for s in range(10)]
    units = [p.cluster_centers_ / np.linalg.norm(p.cluster_centers_, axis=1, keepdims=True) for p in peers]
    fits = [float((x * u[p.labels_]).sum()) for u, p in zip(units, peers, strict=True)]
    assert fit >= min(fits)


def test_the_order_of_rows_changes_nothing():
    x, _, ids = planted(seed=3, groups=9, spread=0.6)
    found = cluster_openings(x, ids, 8, 0)
    order = np.random.default_rng(0).permutation(len(ids))
    again = cluster_openings(x[order], [ids[i] for i in order], 8, 0)
    np.testing.assert_array_equal(again, found[order])
    np.testing.assert_array_equal(cluster_openings(x, ids, 8, 0), found)


def test_rows_that_do_not_count_join_what_the_others_made():
    x, own, ids = planted()
    among = np.random.default_rng(0).random(len(ids)) < 0.7
    found = cluster_openings(x, ids, 6, 0, among)
    odd = x.copy()
    odd[~among] = -odd[~among]  # wherever they lie, the others' clusters stay
    np.testing.assert_array_equal(cluster_openings(odd, ids, 6, 0, among)[among], found[among])
    assert len({(a, b) for a, b in zip(own.tolist(), found.tolist(), strict=True)}) == 6


def test_fewer_rows_than_clusters_and_rows_that_are_alike():
    x = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 1, 2]]
    found = cluster_openings(x, list("abcdef"), 20, 0)
    assert found.tolist() == [1, 1, 0, 0, 0, 2]
    assert cluster_openings(x[:1], ["a"], 5, 0).tolist() == [0]
    with pytest.raises(OptionError, match="clusters"):
        cluster_openings(x, list("abcdef"), 0, 0)
