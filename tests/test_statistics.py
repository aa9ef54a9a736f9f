"""Small statistics against scipy, brute force and by hand."""

import numpy as np
import pytest

from kat.statistics import density_bins, effective_sample_size, mean_pair_cosine, quantiles, ranks, spearman


def test_effective_sample_size_by_hand():
    assert effective_sample_size(np.asarray([1.0, 1, 1, 1])) == 4
    assert effective_sample_size(np.asarray([2.0, 1, 1])) == pytest.approx(16 / 6)


def test_quantiles_by_hand():
    found = quantiles(np.arange(101.0))
    assert found == {"1%": 1, "25%": 25, "50%": 50, "75%": 75, "99%": 99}


def test_the_rank_correlation_of_a_constant_is_not_a_number():
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert spearman(np.arange(5), np.arange(5)) == pytest.approx(1)


@pytest.mark.parametrize("center", [False, True])
def test_mean_pair_cosine_against_all_pairs(center):
    x = np.random.default_rng(14).normal(size=(60, 5)).astype(np.float32) + 2
    y = x - x.mean(0) if center else x
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(60, dtype=bool)]
    assert mean_pair_cosine(x, center=center) == pytest.approx(pairs.mean(), abs=1e-5)


def test_ranks_and_correlation_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(13)
    x, y = rng.integers(0, 9, 200), rng.normal(size=200)
    np.testing.assert_array_equal(ranks(x) + 1, stats.rankdata(x))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_bins_are_fifths_of_the_openings_that_train():
    values = np.concatenate([np.arange(100.0), [-5.0, 19.9, 500.0, np.nan]])
    training = np.arange(104) < 100
    found = density_bins(values, training)
    assert np.bincount(found[:100]).tolist() == [20, 20, 20, 20, 20]
    assert (np.diff(found[:100]) >= 0).all()
    assert found[100:].tolist() == [0, 1, 4, -1]
