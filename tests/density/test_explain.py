"""Why an opening weighs what it weighs, against brute force."""

import numpy as np
import pytest

import kat
from kat.density.explain import percentile


def explained():
    rng = np.random.default_rng(6)
    topics = 8 * rng.normal(size=(15, 4))[rng.integers(0, 15, 400)] + rng.normal(size=(400, 4))
    vectors = np.concatenate([topics, 30 + rng.normal(size=(1, 4))]).astype(np.float32)
    ids = [f"id{i}" for i in range(len(vectors))]
    tokens = np.arange(len(vectors), dtype=np.int32)
    source = kat.Embeddings(ids, vectors, tokens, np.where(tokens > 395, 7, 0))
    neighbors = kat.find_neighbors(source, k=50, metric="euclidean")
    return source, kat.weigh(kat.estimate_density(neighbors, k=20))


def test_an_explanation_agrees_with_brute_force():
    source, weights = explained()
    why = weights.explain("id400")
    apart = np.linalg.norm(source.vectors.astype(np.float64) - source.vectors[400], axis=1)
    apart[400] = np.inf
    oracle = [(f"id{i}", apart[i]) for i in np.argsort(apart)[:5]]
    assert [i for i, _ in why["nearest"]] == [i for i, _ in oracle]
    np.testing.assert_allclose([d for _, d in why["nearest"]], [d for _, d in oracle], rtol=1e-6)
    assert why["density_percentile"] == 0
    assert why["weight_percentile"] == 100
    assert why["length_percentile"] == 100
    assert why["tokens_lost"] == 7
    assert weights.explain("id3")["tokens_lost"] == 0


def test_an_explanation_gives_the_weight_at_other_k():
    source, weights = explained()
    why = weights.explain("id400")["weight_at_k"]
    for k in (10, 20, 50):
        alone = kat.weigh(kat.estimate_density(kat.find_neighbors(source, k=k, metric="euclidean")))
        assert why[k] == pytest.approx(alone.values[400], rel=1e-3)


def test_explanations_need_evidence_and_a_known_id():
    _, weights = explained()
    with pytest.raises(KeyError, match="No opening has the id nobody"):
        weights.explain("nobody")
    with pytest.raises(ValueError, match="plain numbers"):
        kat.weigh([1.0, 2.0]).explain("0")


def test_percentiles_count_ties_half():
    assert percentile(np.asarray([1.0, 1.0, 1.0]), 0) == 50
    assert percentile(np.asarray([1.0, 2.0, 3.0]), 2) == 100
    assert percentile(np.asarray([1.0]), 0) == 0
