"""Token ids of a long text in windows: a tokenizer's own records of a text are 150 times its letters.

Windows overlap. Each begins where the one before began a token, and is joined to it in the middle of what they share:
only where both say the same tokens at the same places over the middle half of it, at whose ends neither sees what the
other sees. A tokenizer looks at a word or at some neighbouring letters, and two windows that agree over so long a
stretch go on alike from there. Where they do not agree, the overlap grows; where that does not help (a "word" longer
than half a window), the text is tokenised at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WINDOW = 1 << 18
_VARIED = 12
"""Different tokens in a stretch of text that does not repeat itself."""
_OVERLAPS = (1 << 12, 1 << 14, 1 << 17)
"""Characters that two windows share, tried in turn."""


@dataclass(frozen=True, eq=False)
class _Window:
    """The tokens of a part of a text: ids [T], and where in the whole text each begins and ends [T, 2]."""

    ids: np.ndarray
    spans: np.ndarray
    end: int

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the numbers of the tokens that begin in a stretch of the text."""
        begins = self.spans[:, 0]
        return np.flatnonzero((begins >= start) & (begins < stop))


def long_ids(backend: Tokenizer, text: str, window: int = WINDOW) -> np.ndarray:
    """Return the ids [T] int32 of a text, without special tokens, as the tokenizer gives them for all of it at once."""
    last, first = _window(backend, text, 0, window), 0
    parts = []
    while last.end < len(text):
        joined = _next(backend, text, last, window)
        if joined is None:
            return np.asarray(backend.encode(text, add_special_tokens=False).ids, np.int32)
        following, stop, start = joined
        if stop < first:  # the join lies before the last one: nothing would be gained
            return np.asarray(backend.encode(text, add_special_tokens=False).ids, np.int32)
        parts.append(last.ids[first:stop])
        last, first = following, start
    return np.concatenate([*parts, last.ids[first:]])


def in_windows(text: str, window: int = WINDOW, overlap: int = _OVERLAPS[0]) -> list[str]:
    """Return a text in parts that overlap."""
    return [text[start : start + window + overlap] for start in range(0, max(len(text), 1), window)]


def _window(backend: Tokenizer, text: str, start: int, window: int) -> _Window:
    encoding = backend.encode(text[start : start + window], add_special_tokens=False)
    spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2) + start
    return _Window(np.asarray(encoding.ids, np.int32), spans, start + window)


def _next(backend: Tokenizer, text: str, last: _Window, window: int) -> tuple[_Window, int, int] | None:
    """The window that follows, and the tokens where it is joined: the end of the last's, the beginning of its own."""
    # A Unigram model weighs all of a word at once: where it cuts a word that repeats itself depends on the whole.
    least = _VARIED if type(backend.model).__name__ == "Unigram" else 1
    for overlap in _OVERLAPS:
        overlap = min(overlap, window // 2)
        begins = last.between(last.end - overlap, last.end - overlap // 2)
        start = int(last.spans[begins[0], 0]) if len(begins) else last.end - overlap
        following = _window(backend, text, start, window)
        if (place := _agreed(text, last, following, start, least=least)) is not None:
            return following, *place
    return None


def _agreed(text: str, last: _Window, following: _Window, start: int, *, least: int) -> tuple[int, int] | None:
    """Where two windows are joined, as numbers of their tokens; None if they do not agree, or on less than the `least`
    of different tokens."""
    quarter = (last.end - start) // 4
    low, high = start + quarter, last.end - quarter
    one, other = last.between(low, high), following.between(low, high)
    if len(one) != len(other) or any((np.diff(numbers) != 1).any() for numbers in (one, other)):
        return None
    if not len(one):
        return _agreed_on_nothing(text[low:high], (last, following), low, high)
    if not (last.ids[one] == following.ids[other]).all() or not (last.spans[one] == following.spans[other]).all():
        return None
    if len(np.unique(last.ids[one])) < least:
        return None
    middle = len(one) // 2
    return int(one[middle]), int(other[middle])


def _agreed_on_nothing(stretch: str, windows: tuple[_Window, _Window], low: int, high: int) -> tuple[int, int] | None:
    """Where windows are joined over a stretch in which no token begins: white space, or one unknown "word"."""
    across = [np.flatnonzero((w.spans[:, 0] < low) & (w.spans[:, 1] > low)) for w in windows]
    before = [int((w.spans[:, 0] < low).sum()) for w in windows]
    if not len(across[0]) and not len(across[1]):
        return (before[0], before[1]) if stretch.isspace() else None
    if not len(across[0]) == len(across[1]) == 1:
        return None
    # A token of a thousand letters is none of a vocabulary: it stands for all of what is unknown, however long.
    tokens = [(int(w.ids[n[0]]), int(w.spans[n[0], 1])) for w, n in zip(windows, across, strict=True)]
    if tokens[0][0] != tokens[1][0] or min(end for _, end in tokens) < high:
        return None
    return before[0], before[1]
