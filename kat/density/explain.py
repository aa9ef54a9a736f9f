"""The evidence behind one weight: pure functions of ids, weights and the density they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kat.records import Density, Neighbors

OTHER_KS = (10, 20, 50)
_NEAREST = 5


def row_of(opening_id: str, ids: Sequence[str]) -> int:
    """Return the row of an id. Raises KeyError for one that is not among the ids."""
    try:
        return list(ids).index(opening_id)
    except ValueError:
        known = f"there are {len(ids):,}, the first is {ids[0]}"
        raise KeyError(f"No opening has the id {opening_id}; {known}.") from None


def evidence(
    row: int, opening_id: str, values: np.ndarray, density: Density, weight_at_k: Mapping[int, float]
) -> Mapping[str, Any]:
    """Return why the opening in this row weighs what it weighs; `values` [N] are all weights.

    `density_percentile` and `length_percentile` are the share of openings with less; `nearest` the five nearest
    others as (id, distance); `weight_at_k` the weight that the same options give at other k; `tokens` and
    `tokens_lost` the text's length and what the model did not read. Length and loss are None where the embeddings do
    not hold them. Raises ValueError for a density without neighbours.
    """
    neighbors = density.neighbors
    if neighbors is None:
        raise ValueError("This density was made without neighbours; there is no evidence to show.")
    source = neighbors.source
    tokens = None if source is None else source.tokens
    lost = None if source is None else source.lost
    return {
        "id": opening_id,
        "weight": float(values[row]),
        "weight_percentile": percentile(values, row),
        "density_percentile": percentile(density.log_values, row),
        "k": density.k,
        "same_vector": int(neighbors.multiplicity[row]) - 1,
        "nearest": nearest_others(neighbors, row, _NEAREST),
        "weight_at_k": dict(weight_at_k),
        "tokens": None if tokens is None else int(tokens[row]),
        "length_percentile": None if tokens is None else percentile(tokens, row),
        "tokens_lost": None if lost is None else int(lost[row]),
    }


def nearest_others(neighbors: Neighbors, row: int, count: int) -> list[tuple[str, float]]:
    """Return the ids and distances of the `count` nearest others of a row, or of as many as there are."""
    near = zip(neighbors.indices[row, :count], neighbors.distances[row, :count], strict=True)
    return [(str((neighbors.targets or neighbors.ids)[i]), float(d)) for i, d in near]


def percentile(values: np.ndarray, row: int) -> float:
    """Return the share of rows, in percent, whose value is under this row's; ties count half."""
    values = np.asarray(values)
    under, same = (values < values[row]).sum(), (values == values[row]).sum()
    return float(100 * (under + (same - 1) / 2) / max(len(values) - 1, 1))
