"""Texts of one window to what is computed for them, and back: pieces of tokens, each distinct one read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kat.embedding.pooling import normalise
from kat.embedding.texts import Tokens

_TOKENISED_AT_ONCE = 4096
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


def read_texts(texts: Sequence[str], tokens: Tokens, limit: int, long_text: str) -> Reading:
    """Tokenise texts in bulk, cut what is longer than `limit` tokens, and find the distinct pieces.

    Raises InputError for a text that is not valid Unicode, OptionError for a limit without room for a token.
    """
    seen: dict[bytes, int] = {}
    place, weight, first = [], [], [0]
    whole, kept = np.empty(len(texts), np.int32), np.empty(len(texts), np.int32)
    special = len(tokens.before) + len(tokens.after)
    for row, ids in enumerate(_token_ids(texts, tokens)):
        pieces = tokens.pieces(ids, limit, long_text)
        for piece in pieces:
            place.append(seen.setdefault(piece.tobytes(), len(seen)))
            weight.append(max(len(piece) - special, 1))
        first.append(len(place))
        whole[row] = max(len(ids) + special, 1)
        kept[row] = sum(map(len, pieces)) - special * (len(pieces) - 1)
    lengths = np.fromiter((len(piece) // 4 for piece in seen), np.int64, len(seen))
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.frombuffer(b"".join(seen), np.int32)
    rows = (np.asarray(x, np.int64) for x in (place, weight, first))
    return Reading(flat, bounds, *rows, whole, whole - kept)


def _token_ids(texts: Sequence[str], tokens: Tokens) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        yield from tokens.encode(texts[start : start + _TOKENISED_AT_ONCE])
