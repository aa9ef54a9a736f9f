"""What `embeddings_metadata.json` says of weights and of what they were made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kat.data.headings import Heading
from kat.density.weights import Weights
from kat.records import Embeddings
from kat.statistics import mean_pair_cosine, quantiles, spearman

HEAVIEST = 20


def weight_metadata(embeddings: Embeddings, weights: Weights, openings: Mapping[str, Heading] | None) -> dict[str, Any]:
    """Summarise weights as plain values; `openings` maps the heaviest ids to their text."""
    density = weights.density
    assert density is not None, "weights made from a Density"
    neighbors = density.neighbors
    assert neighbors is not None, "a Density made from Neighbors"
    values = weights.values.astype(np.float64)
    return {
        "n_items": len(embeddings),
        "embedding_dim": int(embeddings.vectors.shape[1]),
        "k": density.k,
        "k_stored": neighbors.k,
        "metric": neighbors.metric,
        "estimator": density.estimator,
        "recall": neighbors.recall,
        "intrinsic_dimension": _finite(density.intrinsic_dimension),
        "split_half_correlation": density.split_half,
        "noise_variance": density.noise,
        "temperature": weights.temperature,
        "temperature_bound": weights.bound,
        "cap": weights.cap,
        "cap_hits": weights.cap_hits,
        "effective_sample_size": weights.ess,
        "effective_sample_share": weights.ess_share,
        "heaviest_1_percent_share": weights.heaviest_share,
        "weight": {
            "min": float(values.min()),
            "max": float(values.max()),
            "mean": float(values.mean()),
            "std": float(values.std()),
            "quantiles": quantiles(values),
        },
        "mean_pair_cosine": _finite(mean_pair_cosine(embeddings.vectors)),
        "mean_pair_cosine_centred": _finite(mean_pair_cosine(embeddings.vectors, center=True)),
        "duplicate_vectors": int((neighbors.multiplicity > 1).sum()),
        "rank_correlation_weight_length": _length_correlation(embeddings, values),
        "heaviest": _heaviest(weights, openings),
        **_truncation(embeddings),
        "model": dict(embeddings.meta),
    }


def heaviest_ids(weights: Weights) -> list[str]:
    """Return the ids of the heaviest openings, heaviest first, ties in row order."""
    return [weights.ids[row] for row in _heaviest_rows(weights)]


def _heaviest_rows(weights: Weights) -> list[int]:
    return np.argsort(-weights.values, kind="stable")[:HEAVIEST].tolist()


def _heaviest(weights: Weights, openings: Mapping[str, Heading] | None) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for row in _heaviest_rows(weights):
        one: dict[str, Any] = {"id": weights.ids[row], "weight": float(weights.values[row])}
        if openings is not None:
            heading = openings[weights.ids[row]]
            one["opening"] = heading.opening[:200]
            if heading.later:
                one["later"] = heading.later[:200]
        told.append(one)
    return told


def _truncation(embeddings: Embeddings) -> dict[str, int]:
    if embeddings.lost is None:
        return {}
    return {"truncated": int((embeddings.lost > 0).sum()), "tokens_lost": int(embeddings.lost.sum(dtype=np.int64))}


def _length_correlation(embeddings: Embeddings, values: np.ndarray) -> float | None:
    return None if embeddings.tokens is None else _finite(spearman(values, embeddings.tokens))


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
