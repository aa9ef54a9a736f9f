"""Weights that know noise from rarity: the split-half bound."""

import numpy as np
import pytest

import kat
from kat.density.estimators.mean_distance import mean_distance
from kat.density.noise import split_half
from kat.density.weights import NOISE_ESS
from kat.plugins import ESTIMATORS as FOLDER
from kat.plugins import load_all, names
from kat.records import Halves

ESTIMATORS = names(FOLDER)
LOG_DENSITY = {name: plugin.log_density for name, plugin in load_all(FOLDER).items()}


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def topics(n: int = 3000, d: int = 6, seed: int = 0) -> np.ndarray:
    """Gaussians of one spread and Zipf sizes: density truly differs."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 16)
    which = rng.choice(15, n, p=shares / shares.sum())
    return (8 * rng.normal(size=(15, d))[which] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("d", [4, 16])
def test_structureless_data_get_nearly_uniform_weights(d, estimator):
    density = kat.estimate_density(kat.find_neighbors(sphere(3000, d), k=20), estimator=estimator)
    weights = kat.weigh(density, ess=0.5, max_temperature=1e6)
    assert weights.bound == "noise"
    assert weights.ess_share > 0.85
    assert density.split_half < 0.5


def test_without_the_bound_the_same_data_would_get_noise_for_weights():
    density = kat.estimate_density(kat.find_neighbors(sphere(3000, 16), k=20))
    assert kat.weigh(np.exp(density.log_values), ess=0.5, max_temperature=1e6).ess_share < 0.51


def test_real_structure_is_not_held_back():
    density = kat.estimate_density(kat.find_neighbors(topics(), k=20, metric="euclidean"))
    weights = kat.weigh(density, ess=0.5)
    assert density.split_half > 0.9
    assert (weights.bound, round(weights.ess_share, 4)) == ("ess", 0.5)


def test_noise_against_simulation():
    """Signal + noise of known variances, twice the noise in a half: r is the reliability, (1 − r)·var the noise."""
    rng = np.random.default_rng(1)
    signal, n = rng.normal(size=20_000), 20_000
    one, two = (signal + np.sqrt(0.5) * rng.normal(size=n) for _ in range(2))
    full = signal + 0.5 * rng.normal(size=n)
    # mean_distance reads −log of the distance: give it distances that have these logs.
    halves = Halves(np.arange(n), np.exp(-one)[:, None], np.exp(-two)[:, None])
    r, noise = split_half(halves, 1, lambda distances: mean_distance(distances, 1.0), full)
    assert r == pytest.approx(1 / 1.25, abs=0.01)
    assert noise == pytest.approx(0.25, abs=0.01)


def test_the_noise_bound_is_what_it_says():
    """Weights exp(−T e) of pure noise e at the bounding T have the promised effective sample size."""
    density = kat.estimate_density(kat.find_neighbors(sphere(3000, 16), k=20))
    weights = kat.weigh(density, max_temperature=1e6)
    noise = np.random.default_rng(2).normal(size=400_000) * np.sqrt(density.noise)
    plain = np.exp(-weights.temperature * noise)
    assert plain.sum() ** 2 / (plain**2).sum() / len(plain) == pytest.approx(NOISE_ESS, abs=0.005)


def test_duplicates_are_no_noise():
    """Duplicating rows at random leaves the noise of the places as it was, though density now varies much more."""
    rng = np.random.default_rng(5)
    x = topics(2000)
    plain = kat.estimate_density(kat.find_neighbors(x, k=20, metric="euclidean"))
    repeated = np.repeat(x, rng.integers(1, 40, len(x)), 0)
    copied = kat.estimate_density(kat.find_neighbors(repeated, k=20, metric="euclidean"))
    assert copied.noise == pytest.approx(plain.noise, rel=1e-3)
    assert np.var(copied.log_values) > np.var(plain.log_values)


def test_the_noise_claimed_is_the_noise_there_is():
    """Fresh samples of one density, asked at fixed places: their variance is the noise (d = 4, k = 20)."""
    rng = np.random.default_rng(6)
    places = rng.normal(size=(300, 4))
    claimed, measured = [], []
    for _ in range(8):
        x = np.concatenate([places, rng.normal(size=(3000, 4))]).astype(np.float32)
        density = kat.estimate_density(kat.find_neighbors(x, k=20, metric="euclidean"))
        claimed.append(density.noise)
        measured.append(density.log_values[:300])
    assert np.mean(claimed) == pytest.approx(np.var(measured, axis=0, ddof=1).mean(), rel=0.35)
