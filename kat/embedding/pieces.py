"""Texts of one window to what is computed for them, and back: pieces of tokens, each distinct one read once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kat.embedding.pooling import normalise
from kat.embedding.tokenize import BulkTokenizer
from kat.packing.budget import windows

_AT_ONCE = (4096, 1 << 20)
"""Texts, and about as many characters, that are tokenised at once: a tokenizer's own records are 50 times the ids."""
_ROWS = 4096
"""Texts whose vectors are combined at once."""
_INT32 = 4
"""Bytes of a token id."""


@dataclass(frozen=True)
class TextPieces:
    """N texts as the distinct pieces of tokens that are computed for them.

    `flat` and `bounds` hold the distinct pieces: piece p is flat[bounds[p] : bounds[p + 1]]. Text i is made of the
    pieces `place[first[i] : first[i + 1]]`, with `weight` tokens each. `tokens` [N] int32 are those of the
    complete texts, special ones included, `lost` [N] int32 those that no piece holds. `readings` [N, 2] int32 are the
    tokens of each text alone, without special ones and prompt, and those of them that the tokenizer does not know.
    """

    flat: np.ndarray
    bounds: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    first: np.ndarray
    tokens: np.ndarray
    lost: np.ndarray
    readings: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Count the tokens of each distinct piece, [P]."""
        return np.diff(self.bounds)

    def piece(self, number: int) -> np.ndarray:
        """Return the token ids of a distinct piece."""
        return self.flat[self.bounds[number] : self.bounds[number + 1]]

    def texts_of(self, pieces: np.ndarray) -> np.ndarray:
        """Return the numbers of the texts that some pieces are of, ascending."""
        places = np.flatnonzero(np.isin(self.place, pieces))
        return np.unique(np.searchsorted(self.first, places, side="right") - 1)

    def combine(self, pooled: np.ndarray, out: np.ndarray) -> None:
        """Write unit vectors of the texts [N, D] into `out`, made of the pooled vectors of the pieces [P, D].

        A text of several pieces gets their mean weighted by tokens. In blocks, for both may lie on disk.
        """
        for start in range(0, len(out), _ROWS):
            stop = min(start + _ROWS, len(out))
            a, z = self.first[start], self.first[stop]
            block = pooled[self.place[a:z]]
            if z - a > stop - start:  # some text of the block has several pieces
                starts = self.first[start:stop] - a
                weight = self.weight[a:z, None].astype(np.float32)
                block = np.add.reduceat(block * weight, starts, axis=0) / np.add.reduceat(weight, starts, axis=0)
            normalise(block)
            out[start:stop] = block


def cut_into_pieces(texts: Iterable[str], tokenizer: BulkTokenizer, limit: int, long_text: str) -> TextPieces:
    """Tokenise texts in bulk, cut what is longer than `limit` tokens, and find the distinct pieces.

    Raises InputError for a text that is not valid Unicode, OptionError for a limit without room for a token.
    """
    seen: dict[bytes, int] = {}  # in the order of first sight, so that the pieces follow from the texts
    place, weight, first = array("q"), array("q"), array("q", [0])
    counts, kept = array("i"), array("i")  # tokens of each text: all of them, and those that pieces hold
    readings = array("i")
    special = len(tokenizer.before) + len(tokenizer.after)
    for ids in _token_ids(texts, tokenizer):
        pieces = tokenizer.pieces(ids, limit, long_text)
        for piece in pieces:
            place.append(seen.setdefault(piece.tobytes(), len(seen)))
            weight.append(max(len(piece) - tokenizer.around, 1))
        first.append(len(place))
        counts.append(max(len(ids) + special, 1))
        kept.append(sum(map(len, pieces)) - tokenizer.around * (len(pieces) - 1))
        readings.extend(tokenizer.reading(ids))
    lengths = np.fromiter((len(piece) // _INT32 for piece in seen), np.int64, len(seen))
    total = np.frombuffer(counts, np.int32)
    return TextPieces(
        flat=np.frombuffer(b"".join(seen), np.int32),
        bounds=np.concatenate([[0], np.cumsum(lengths)]),
        place=np.frombuffer(place, np.int64),
        weight=np.frombuffer(weight, np.int64),
        first=np.frombuffer(first, np.int64),
        tokens=total,
        lost=total - np.frombuffer(kept, np.int32),
        readings=np.frombuffer(readings, np.int32).reshape(-1, 2),
    )


def _token_ids(texts: Iterable[str], tokenizer: BulkTokenizer) -> Iterator[np.ndarray]:
    for batch in windows(texts, *_AT_ONCE):
        yield from tokenizer.encode(batch)
