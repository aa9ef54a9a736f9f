"""What attention over trunks and branches is made of: blocks of queries and keys that are seen whole, or causally.

A trunk of T tokens with branches of B tokens together costs T² + B·T + Σ b² scores where a dense mask has (T + B)².
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kat.packing.trunks import TrunkLayout

SCORES = 1 << 21
"""Scores of one product, 4 MB in bfloat16. A training step of SmolLM2 on SHP took 10 % longer with a quarter of them,
and 20 % with an eighth (2 cores with 2 MB of second cache each): fewer products outweigh what leaves the cache."""
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

    Cut so that the scores of all `heads` are about SCORES at most: a long segment into pieces that continue one
    another, queries behind a piece down to LANES at a time.
    """
    pieces = _pieces(layout, heads)
    return (*_own(pieces, heads), *_behind(pieces, heads))


class _Pieces(NamedTuple):
    """First tokens [S], lengths [S], and the token [S] after the last one that sees each piece."""

    starts: np.ndarray
    lengths: np.ndarray
    until: np.ndarray


def _pieces(layout: TrunkLayout, heads: int) -> _Pieces:
    """Return segments, those whose own scores would be over 4 · SCORES in several pieces: a causal square of T tokens
    is then T² / 2 scores and not T²."""
    most = max(LANES, int((4 * SCORES / heads) ** 0.5) // LANES * LANES)
    counts = -(-layout.lengths // most)
    segment = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(segment)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = layout.bounds[segment] + place * most
    ends = np.minimum(starts + most, layout.bounds[segment + 1])
    return _Pieces(starts, ends - starts, layout.until[segment])


def _own(pieces: _Pieces, heads: int) -> Iterator[Block]:
    """Each piece's own tokens: pieces of one filled length together, wherever they stand."""
    filled = -(-pieces.lengths // LANES) * LANES
    for size in np.unique(filled).tolist():
        alike = np.flatnonzero(filled == size)
        most = max(1, SCORES // (heads * size * size))
        for first in range(0, len(alike), most):
            some = alike[first : first + most]
            spans = Spans(pieces.starts[some], pieces.lengths[some], size)
            yield Block(spans, spans, causal=True)


def _behind(pieces: _Pieces, heads: int) -> Iterator[Block]:
    """All tokens behind a piece that see it, which see all of it."""
    ends = pieces.starts + pieces.lengths
    for piece in np.flatnonzero(pieces.until > ends).tolist():
        length, stop = int(pieces.lengths[piece]), int(pieces.until[piece])
        filled = -(-length // LANES) * LANES
        keys = Spans(pieces.starts[piece : piece + 1], np.asarray([length]), filled)
        most = max(LANES, SCORES // (heads * filled) // LANES * LANES)
        for start in range(int(ends[piece]), stop, most):
            count = min(most, stop - start)
            queries = Spans(np.asarray([start]), np.asarray([count]), -(-count // LANES) * LANES)
            yield Block(queries, keys, causal=False)
