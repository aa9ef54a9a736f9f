"""The estimators: by hand, against each other, and that each is a plug-in with all its facts."""

import numpy as np
import pytest

import kat
from kat.config import DensityOptions
from kat.density.estimators import Estimator, query_log_density
from kat.errors import OptionError
from kat.plugins import ESTIMATORS as FOLDER
from kat.plugins import load_all, names

ESTIMATORS = names(FOLDER)
LOG_DENSITY = {name: plugin.log_density for name, plugin in load_all(FOLDER).items()}


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_every_file_of_the_folder_is_an_estimator_by_its_name():
    assert set(ESTIMATORS) == {"mean_distance", "kth_distance", "inverse_cosine"}
    for name, plugin in load_all(FOLDER).items():
        assert isinstance(plugin, Estimator)
        assert plugin.name == name
        assert plugin.help
    assert [name for name, plugin in load_all(FOLDER).items() if plugin.stated] == [DensityOptions.estimator]


def test_queries_of_an_estimator_that_needs_vectors_are_refused():
    x = sphere(60, 4) + 2
    embeddings = kat.Embeddings([str(i) for i in range(60)], x)
    among = kat.estimate_density(kat.find_neighbors(embeddings, k=5, metric="euclidean"), estimator="inverse_cosine")
    with pytest.raises(OptionError, match="inverse_cosine of queries needs cosine neighbours"):
        query_log_density(kat.find_neighbors(x, k=5, metric="euclidean", queries=x[:3]), among)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_duplicates_shrink_distances_as_density_would(estimator):
    """m duplicates change each estimate as distances smaller by m^(−1/d) would, whatever its units."""
    distances, d, m = np.random.default_rng(7).uniform(0.1, 0.5, (50, 9)), 5.0, 12
    distances.sort(axis=1)
    copied = LOG_DENSITY[estimator](distances, d, m)
    np.testing.assert_allclose(copied, LOG_DENSITY[estimator](distances * m ** (-1 / d), d), rtol=1e-9)


def test_estimators_by_hand():
    distances = np.asarray([[1.0, 2.0, 3.0], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(LOG_DENSITY["mean_distance"](distances, 4.0), [-np.log(2), np.log(2)])
    np.testing.assert_allclose(LOG_DENSITY["kth_distance"](distances, 4.0), [-4 * np.log(3), 4 * np.log(2)])
    cosine = 1 - distances[1:] ** 2 / 2
    np.testing.assert_allclose(LOG_DENSITY["inverse_cosine"](distances[1:], 4.0), np.log(cosine.mean(1)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_says_that_crowded_is_high(estimator):
    rng = np.random.default_rng(5)
    crowd, rare = rng.normal(size=(400, 3)) * 0.05 + [5, 0, 0], rng.normal(size=(40, 3)) * 0.05 + [0, 5, 0]
    x = np.concatenate([crowd, rare])
    for metric in ("cosine", "euclidean"):
        neighbors = kat.find_neighbors(kat.Embeddings([str(i) for i in range(440)], x), k=20, metric=metric)
        density = kat.estimate_density(neighbors, estimator=estimator)
        assert density.log_values[:400].mean() > density.log_values[400:].mean()
        assert kat.weigh(density).values[400:].mean() > 1 > kat.weigh(density).values[:400].mean()


def test_inverse_cosine_from_vectors_equals_that_from_distances():
    x = kat.Embeddings([str(i) for i in range(300)], sphere(300, 5) + 2)
    unit = x.vectors / np.linalg.norm(x.vectors, axis=1, keepdims=True)
    by_distance = kat.estimate_density(kat.find_neighbors(x, k=10), estimator="inverse_cosine")
    euclidean = kat.find_neighbors(unit, k=10, metric="euclidean")
    by_vectors = kat.estimate_density(euclidean, estimator="inverse_cosine", embeddings=x)
    np.testing.assert_allclose(by_vectors.log_values, by_distance.log_values, atol=1e-5)
    with pytest.raises(OptionError, match="embeddings="):
        kat.estimate_density(euclidean, estimator="inverse_cosine")


def test_options_are_checked():
    neighbors = kat.find_neighbors(sphere(30, 3), k=3)
    with pytest.raises(OptionError, match="estimator"):
        kat.estimate_density(neighbors, estimator="magic")
    with pytest.raises(OptionError, match="k is 0"):
        kat.estimate_density(neighbors, k=0)
