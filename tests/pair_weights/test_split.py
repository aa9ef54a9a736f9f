"""Near-duplicates against all cosines, components against SciPy, the split against what it promises."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kat.errors import OptionError
from kat.neighbors.find import find_neighbors
from kat.pair_weights.split import LARGEST, connected, expected_leak, near_duplicates, split_groups, within


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_a_graph_library(seed):
    rng = np.random.default_rng(seed)
    n, e = 300, [0, 40, 150, 290, 900][seed]
    a, b = rng.integers(0, n, (2, e))
    found = connected(a, b, n)
    _, wanted = connected_components(coo_array((np.ones(e), (a, b)), shape=(n, n)), directed=False)
    for label in np.unique(wanted):
        rows = np.flatnonzero(wanted == label)
        assert (found[rows] == rows.min()).all()


def test_a_long_chain_is_one_component():
    order = np.random.default_rng(0).permutation(5000)
    assert (connected(order[:-1], order[1:], 5000) == 0).all()


def test_near_duplicates_are_those_of_all_cosines():
    rng = np.random.default_rng(0)
    x = np.concatenate([c + 0.15 * rng.normal(size=(6, 8)) for c in rng.normal(size=(20, 8))]).astype(np.float32)
    x[7] = x[6]  # equal vectors, whose cosine rounding may put above or below 1
    cosines = (u := x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)) @ u.T
    for least in (0.5, 0.9, 0.97):
        found = set(zip(*(e.tolist() for e in near_duplicates(find_neighbors(x, k=119), least)), strict=True))
        wanted = {(i, j) for i in range(120) for j in range(120) if i != j and cosines[i, j] >= least}
        assert found == wanted
    rows, others = near_duplicates(find_neighbors(x, k=5), 1.0)
    assert set(zip(rows.tolist(), others.tolist(), strict=True)) == {(6, 7), (7, 6)}
    for wrong in (0, 1.01, -0.5):
        with pytest.raises(OptionError, match="group_cosine"):
            within(np.zeros(2), wrong)


def groups(seed: int, n: int = 500) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return [f"id{i}" for i in range(n)], rng.integers(0, n // 2, n), rng.integers(1, 6, n)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_whole_groups_validate_and_about_the_share_that_was_asked(seed, share):
    ids, group, size = groups(seed)
    found = split_groups(ids, group, size, share)
    for one in np.unique(group):
        assert len(set(found[group == one].tolist())) == 1
    validates = size[found].sum()
    assert validates <= share * size.sum()
    assert validates >= share * size.sum() - 5


def test_the_order_of_rows_changes_nothing_and_the_seed_does():
    ids, group, size = groups(1)
    found = split_groups(ids, group, size, 0.2)
    order = np.random.default_rng(0).permutation(len(ids))
    names = np.random.default_rng(1).permutation(len(ids))  # names of groups mean nothing either
    again = split_groups([ids[i] for i in order], names[group[order]], size[order], 0.2)
    np.testing.assert_array_equal(again, found[order])
    assert (split_groups(ids, group, size, 0.2, seed=1) != found).any()


def test_each_pair_of_single_openings_is_as_likely_to_validate():
    ids = [f"id{i}" for i in range(50)]
    counts = sum(split_groups(ids, np.arange(50), np.ones(50, int), 0.2, seed=s) for s in range(600))
    # Binomial(600, 0.2) has a standard deviation of 9.8; the extremes of 50 lie within 4 of them.
    assert counts.sum() == 600 * 10
    assert abs(counts - 120).max() < 40


def test_a_crowd_stays_in_training():
    ids, group, size = [f"id{i}" for i in range(200)], np.arange(200), np.ones(200, int)
    group[:60] = 0
    for seed in range(30):
        found = split_groups(ids, group, size, 0.2, seed)
        assert not found[:60].any()
        sizes = np.bincount(group[found])
        assert sizes.max() <= max(LARGEST * 0.2 * 200, 1)


def test_a_share_that_no_group_fits_is_refused():
    with pytest.raises(OptionError, match=r"No group is small enough.*the smallest has 50"):
        split_groups(["a", "b"], np.asarray([0, 1]), np.asarray([50, 50]), 0.1)
    assert not split_groups(["a", "b"], np.asarray([0, 1]), np.asarray([50, 50]), 0.0).any()
    for share in (-0.1, 1.0):
        with pytest.raises(OptionError, match="validation_share"):
            split_groups(["a"], np.asarray([0]), np.asarray([1]), share)


def test_the_leak_of_a_split_by_opening_is_what_drawing_it_gives():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 40, (2, 60))
    keep = a != b
    edges = {(int(i), int(j)) for i, j in zip(a[keep], b[keep], strict=True)}
    edges |= {(j, i) for i, j in edges}
    rows = np.asarray([i for i, _ in sorted(edges)])
    wanted = expected_leak(rows, 40, 0.3)
    near = np.zeros((40, 40), bool)
    near[tuple(np.asarray(sorted(edges)).T)] = True
    trains = rng.random((20_000, 40)) >= 0.3
    found = ((trains @ near) > 0).mean(axis=0)  # whatever side the row itself is on
    np.testing.assert_allclose(found, wanted, atol=0.02)
