"""Why an opening weighs what it weighs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kat.records import Density, Weights

OTHER_KS = (10, 20, 50)
_NEAREST = 5


def explain(weights: Weights, opening_id: str) -> Mapping[str, Any]:
    """The evidence behind one weight.

    `density_percentile` and `length_percentile` are the share of openings with less; `nearest` the five nearest
    others as (id, distance); `weight_at_k` the weight that the same options give at other k, as far as neighbours
    were stored; `tokens` and `tokens_lost` the text's length and what the model did not read. Length and loss are
    None where the embeddings do not know them.

    Raises KeyError for an id that is not among the weights.
    """
    density = weights.density
    row = _row_of(weights, opening_id)
    neighbors, source = density.neighbors, density.neighbors.source
    tokens = None if source is None else source.tokens
    lost = None if source is None else source.lost
    near = zip(neighbors.indices[row, :_NEAREST], neighbors.distances[row, :_NEAREST], strict=True)
    return {
        "id": opening_id,
        "weight": float(weights.values[row]),
        "weight_percentile": percentile(weights.values, row),
        "density_percentile": percentile(density.log_values, row),
        "k": density.k,
        "same_vector": int(neighbors.multiplicity[row]) - 1,
        "nearest": [(str((neighbors.targets or neighbors.ids)[i]), float(d)) for i, d in near],
        "weight_at_k": {k: _weight_at(weights, density, k, row) for k in OTHER_KS if k <= neighbors.spacing.shape[1]},
        "tokens": None if tokens is None else int(tokens[row]),
        "length_percentile": None if tokens is None else percentile(tokens, row),
        "tokens_lost": None if lost is None else int(lost[row]),
    }


def percentile(values: np.ndarray, row: int) -> float:
    """Share of rows, in percent, whose value is under this row's; ties count half."""
    values = np.asarray(values)
    under, same = (values < values[row]).sum(), (values == values[row]).sum()
    return float(100 * (under + (same - 1) / 2) / max(len(values) - 1, 1))


def _row_of(weights: Weights, opening_id: str) -> int:
    try:
        return list(weights.ids).index(opening_id)
    except ValueError:
        known = f"there are {len(weights):,}, the first is {weights.ids[0]}"
        raise KeyError(f"No opening has the id {opening_id}; {known}.") from None


def _weight_at(weights: Weights, density: Density, k: int, row: int) -> float:
    from kat.density.estimators import estimate_density
    from kat.density.weights import weigh

    if k == density.k:
        return float(weights.values[row])
    other = estimate_density(density.neighbors, k, density.estimator)
    return float(weigh(other, **weights.options).values[row])
