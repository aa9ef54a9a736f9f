"""Texts of one window to what is computed for them, and back: pieces of tokens, each distinct one read once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kat.embedding.pooling import normalise
from kat.embedding.tokenize import Tokens
from kat.packing.budget import windows

_AT_ONCE = (4096, 1 << 20)
"""Texts, and about as many characters, that are tokenised at once: a tokenizer's own records are 50 times the ids."""
_ROWS = 4096


@dataclass(frozen=True)
class Reading:
    """What is read of N texts.

    `flat` and `bounds` hold the distinct pieces: piece p is flat[bounds[p] : bounds[p + 1]]. Text i is made of the
    pieces `place[first[i] : first[i + 1]]`, with `weight` tokens each. `tokens` [N] int32 are those of the whole
    texts, special ones included, `lost` [N] int32 those that no piece holds.
    """

    flat: np.ndarray
    bounds: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    first: np.ndarray
    tokens: np.ndarray
    lost: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each distinct piece."""
        return np.diff(self.bounds)

    def piece(self, number: int) -> np.ndarray:
        return self.flat[self.bounds[number] : self.bounds[number + 1]]

    def combine(self, pooled: np.ndarray, out: np.ndarray) -> None:
        """Pooled vectors of the pieces [P, D] to unit vectors of the texts [N, D], written into `out`.

        A text of several pieces gets their mean weighted by tokens. In blocks, for both may lie on disk.
        """
        for start in range(0, len(out), _ROWS):
            stop = min(start + _ROWS, len(out))
            a, z = self.first[start], self.first[stop]
            block = pooled[self.place[a:z]]
            if z - a > stop - start:
                starts = self.first[start:stop] - a
                weight = self.weight[a:z, None].astype(np.float32)
                block = np.add.reduceat(block * weight, starts, axis=0) / np.add.reduceat(weight, starts, axis=0)
            normalise(block)
            out[start:stop] = block


def read_texts(texts: Iterable[str], tokens: Tokens, limit: int, long_text: str) -> Reading:
    """Tokenise texts in bulk, cut what is longer than `limit` tokens, and find the distinct pieces.

    Raises InputError for a text that is not valid Unicode, OptionError for a limit without room for a token.
    """
    seen: dict[bytes, int] = {}
    place, weight, first = array("q"), array("q"), array("q", [0])
    whole, kept = array("i"), array("i")
    special = len(tokens.before) + len(tokens.after)
    for ids in _token_ids(texts, tokens):
        pieces = tokens.pieces(ids, limit, long_text)
        for piece in pieces:
            place.append(seen.setdefault(piece.tobytes(), len(seen)))
            weight.append(max(len(piece) - special, 1))
        first.append(len(place))
        whole.append(max(len(ids) + special, 1))
        kept.append(sum(map(len, pieces)) - special * (len(pieces) - 1))
    lengths = np.fromiter((len(piece) // 4 for piece in seen), np.int64, len(seen))
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.frombuffer(b"".join(seen), np.int32)
    rows = (np.frombuffer(x, np.int64) for x in (place, weight, first))
    counts = np.frombuffer(whole, np.int32)
    return Reading(flat, bounds, *rows, counts, counts - np.frombuffer(kept, np.int32))


def _token_ids(texts: Iterable[str], tokens: Tokens) -> Iterator[np.ndarray]:
    for some in windows(texts, *_AT_ONCE):
        yield from tokens.encode(some)
