"""How far an embedding run is: tokens, tokens a second, time left, texts.

The longest texts of a window come first, so that a share of the texts would promise too late an end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kat.terminal import bar_off

if TYPE_CHECKING:
    from kat.embedding.pieces import TextPieces


class Progress:
    """A bar over the tokens of `texts` texts, from the second second on. Silent unless `shown` and on a terminal.

    Texts that were not tokenised yet are taken to be like the others.
    """

    def __init__(self, texts: int, shown: bool):
        from tqdm import tqdm

        self._bar = tqdm(desc="embed", unit=" tokens", unit_scale=True, disable=bar_off(shown), delay=1)
        self._all, self._before, self._pieces = texts, 0, 0  # texts; of windows that are over; pieces of this window
        self._texts, self._left = 0, 0.0  # texts of this window, and how many of them are still to compute
        self._known = 0  # tokens to compute in the windows that were read

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def skip(self, texts: int) -> None:
        """Leave out a window that an earlier run completed."""
        self._all -= texts

    def window(self, pieces: TextPieces, tokens: int) -> None:
        """Begin a window: it was tokenised, and `tokens` of it are to be computed."""
        self._before, self._texts = self._before + self._texts, len(pieces.tokens)
        self._pieces = len(pieces.lengths)
        self._left = self._texts * tokens / max(int(pieces.lengths.sum()), 1)
        self._known += tokens
        mean = self._known / (self._before + self._texts)
        self._bar.total = round(self._known + mean * (self._all - self._before - self._texts))

    def advance(self, pieces: int, tokens: int) -> None:
        """Count pieces that were computed, and their tokens."""
        self._left = max(self._left - pieces * self._texts / self._pieces, 0)
        done = self._before + self._texts - round(self._left)
        self._bar.set_postfix_str(f"{done:,} of {self._all:,} texts", refresh=False)
        self._bar.update(tokens)
