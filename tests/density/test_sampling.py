"""Sampling against its definition: inclusion probabilities, counts within one of expectation, unbiased draws."""

import numpy as np
import pytest

from kat.density.sampling import draw_pass, inclusion_probabilities, sample
from kat.errors import InputError, OptionError


def brute_probabilities(weights: np.ndarray, budget: int) -> np.ndarray:
    """By definition: scale, take what reaches 1 for certain, share out the rest again."""
    certain = np.zeros(len(weights), bool)
    while True:
        p = np.where(certain, 1.0, 0.0)
        rest = ~certain
        if rest.any():
            p[rest] = (budget - certain.sum()) * weights[rest] / weights[rest].sum()
        over = rest & (p >= 1 - 1e-12)
        if not over.any():
            return p
        certain |= over


@pytest.mark.parametrize("budget", [1, 7, 50, 99, 100])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_probabilities_equal_their_definition(budget, spread):
    weights = np.exp(spread * np.random.default_rng(0).normal(size=100))
    found = inclusion_probabilities(weights, budget)
    np.testing.assert_allclose(found, brute_probabilities(weights, budget), atol=1e-9)
    assert found.sum() == pytest.approx(budget)
    assert found.max() <= 1


def test_one_heavy_row_is_certain():
    found = inclusion_probabilities(np.asarray([100.0, 1, 1, 1, 1]), 2)
    np.testing.assert_allclose(found, [1, 0.25, 0.25, 0.25, 0.25])


def test_a_sample_has_the_size_asked_for_and_repeats_with_its_seed():
    weights = np.exp(np.random.default_rng(1).normal(size=1000))
    rows, probabilities = sample(weights, 300, seed=4)
    assert len(rows) == len(set(rows.tolist())) == 300
    assert set(np.flatnonzero(probabilities == 1)) <= set(rows.tolist())
    assert (sample(weights, 300, seed=4)[0] == rows).all()
    assert (sample(weights, 300, seed=5)[0] != rows).any()


def test_samples_include_rows_as_often_as_they_say():
    weights = np.exp(np.random.default_rng(2).normal(size=40))
    hits, rounds = np.zeros(40), 4000
    for seed in range(rounds):
        rows, probabilities = sample(weights, 12, seed)
        hits[rows] += 1
    error = np.sqrt(probabilities * (1 - probabilities) / rounds)
    assert (np.abs(hits / rounds - probabilities) <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("draws", [0, 1, 10, 1000, 12345])
def test_a_pass_meets_every_expectation_within_one(draws):
    weights = np.exp(2 * np.random.default_rng(3).normal(size=500))
    rows = draw_pass(weights, draws, seed=1)
    counts = np.bincount(rows, minlength=500)
    expected = draws * weights / weights.sum()
    assert len(rows) == draws
    assert (np.floor(expected - 1e-6) <= counts).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()


def test_whole_expectations_are_met_exactly():
    for seed in range(50):
        counts = np.bincount(draw_pass(np.asarray([1.0, 2.0, 5.0, 2.0]), 30, seed), minlength=4)
        assert counts.tolist() == [3, 6, 15, 6]


def test_a_pass_is_unbiased_and_shuffled():
    weights = np.asarray([1.0, 2.0, 4.0, 3.3])
    counts = sum(np.bincount(draw_pass(weights, 5, seed), minlength=4) for seed in range(4000)) / 4000
    np.testing.assert_allclose(counts, 5 * weights / weights.sum(), atol=0.03)
    assert (np.diff(draw_pass(np.ones(100), 100, 0)) < 0).any()


def test_wrong_input_is_refused():
    with pytest.raises(OptionError, match="N = 3"):
        sample(np.ones(3), 4)
    with pytest.raises(OptionError, match="budget is 0"):
        sample(np.ones(3), 0)
    with pytest.raises(InputError, match="row 1"):
        sample(np.asarray([1.0, 0.0]), 1)
    with pytest.raises(InputError, match="shape"):
        draw_pass(np.ones((2, 2)), 1)
    with pytest.raises(OptionError, match="draws"):
        draw_pass(np.ones(2), -1)
