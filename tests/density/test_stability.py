"""How weights depend on T and k: against weighing again."""

import numpy as np
import pytest

from kat.config import DensityOptions
from kat.density.estimators import estimate_density
from kat.density.stability import at_other_ks, ess_curve, heaviest_overlap
from kat.density.weights import weigh
from kat.neighbors.find import find_neighbors
from kat.records import Density, Embeddings


def test_the_curve_is_that_of_weighing():
    density = np.random.default_rng(0).lognormal(0, 1, 80)
    at = np.asarray([0.0, 0.5, 2.0, 10.0])
    curve = ess_curve(np.log(density), 10.0, at)
    assert curve == pytest.approx([weigh(density, temperature=t).ess_share for t in at])
    assert curve[0] == pytest.approx(1.0)


def test_other_ks_are_weighed_with_the_same_options():
    draw = np.random.default_rng(0)
    # Clouds of very different width, so that the floor of the effective sample size is what stops T.
    cloud = np.arange(120) % 4
    vectors = draw.normal(size=(4, 8))[cloud] + draw.normal(size=(120, 8)) * 0.25 ** cloud[:, None]
    vectors = vectors.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    neighbors = find_neighbors(Embeddings([str(i) for i in range(120)], vectors), 20)
    options = DensityOptions(k=5, ess=0.7, cap=4.0)
    density = estimate_density(neighbors, 5)
    weights = weigh(density, ess=0.7, cap=4.0)
    assert weights.bound == "ess"
    values = weights.values
    rows = at_other_ks(density, values, options, (5, 10, 20, 50))
    assert [row.k for row in rows] == [10, 20]  # k = 50 is more than is kept
    for row in rows:
        other = weigh(estimate_density(neighbors, row.k), ess=0.7, cap=4.0)
        assert row.temperature == other.temperature
        assert row.ess_share == other.ess_share
        ranked = np.corrcoef(np.argsort(np.argsort(values)), np.argsort(np.argsort(other.values)))[0, 1]
        assert row.rank_correlation == pytest.approx(ranked, abs=0.01)
        first, second = (set(np.argsort(-v, kind="stable")[:12].tolist()) for v in (values, other.values))
        assert row.same_heaviest == len(first & second) / 12


def test_overlap():
    values = np.arange(20.0)
    assert heaviest_overlap(values, values * 3) == 1.0
    assert heaviest_overlap(values, -values) == 0.0
    assert heaviest_overlap(np.ones(1), np.ones(1)) == 1.0


def test_a_density_without_neighbours_has_no_other_k():
    density = Density(["a"], np.zeros(1), "mean_distance", 0, "cosine", 3.0)
    with pytest.raises(ValueError, match="without neighbours"):
        at_other_ks(density, np.ones(1), DensityOptions())
