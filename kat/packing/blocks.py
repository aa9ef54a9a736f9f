"""What attention over trunks and branches is made of: blocks of queries and keys that are seen whole, or causally.

A trunk of T tokens with branches of B tokens together costs T² + B·T + Σ b² scores where a dense mask has (T + B)².
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kat.packing.trunks import TrunkLayout

SCORES = 1 << 19
"""Scores of one product, 1 MB in bfloat16: they stay in the second cache between the products."""
LANES = 16
"""Segments are filled up to a multiple of this many tokens: see `kat.packing.attention_cpu`."""


class Spans(NamedTuple):
    """Stretches of a row: first tokens [B] int64, lengths [B] int64, and what these are filled up to."""

    starts: np.ndarray
    lengths: np.ndarray
    filled: int


class Block(NamedTuple):
    """Queries and the keys that they see, stretch by stretch: all of them, or if `causal` none after the query."""

    queries: Spans
    keys: Spans
    causal: bool


@lru_cache(maxsize=1)
def blocks(layout: TrunkLayout, heads: int) -> tuple[Block, ...]:
    """Return what attention over a row is made of: every pair of a query and a key that it sees, in just one block.

    Cut so that the scores of all `heads` fit SCORES: down to one segment by itself, which is never cut, and to LANES
    queries behind a trunk.
    """
    return (*_own(layout, heads), *_behind_trunks(layout, heads))


def _own(layout: TrunkLayout, heads: int) -> Iterator[Block]:
    """Each segment's own tokens: segments of one filled length together, wherever they stand."""
    filled = -(-layout.lengths // LANES) * LANES
    for size in np.unique(filled).tolist():
        segments = np.flatnonzero(filled == size)
        most = max(1, SCORES // (heads * size * size))
        for first in range(0, len(segments), most):
            some = segments[first : first + most]
            spans = Spans(layout.bounds[some], layout.lengths[some], size)
            yield Block(spans, spans, causal=True)


def _behind_trunks(layout: TrunkLayout, heads: int) -> Iterator[Block]:
    """All tokens of a segment's subtree, which see all of the segment."""
    for segment in np.flatnonzero(layout.until > layout.bounds[1:]).tolist():
        length = int(layout.lengths[segment])
        filled = -(-length // LANES) * LANES
        keys = Spans(layout.bounds[segment : segment + 1], np.asarray([length]), filled)
        most = max(LANES, SCORES // (heads * filled) // LANES * LANES)
        stop = int(layout.until[segment])
        for start in range(int(layout.bounds[segment + 1]), stop, most):
            count = min(most, stop - start)
            queries = Spans(np.asarray([start]), np.asarray([count]), -(-count // LANES) * LANES)
            yield Block(queries, keys, causal=False)
