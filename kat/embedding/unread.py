"""Texts that a model cannot read: what its tokenizer does not know, by script, and texts without a token.

Texts of unknown tokens look alike to a model: their vectors lie together, count as crowded and get small weights. So
they are counted, said, and refused where the user has set a limit.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from kat.errors import InputError
from kat.terminal import note

MOST = 0.5
"""The share of a text's tokens that may be unknown, unless told."""
FEW = 0.01
"""The share of the texts that may exceed it before it is a warning, or, where a limit is set, an error."""
MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
_LOOKED_AT = 10_000
"""Characters of a text that its script is told from."""


class UnreadTexts:
    """Counts over a run of `texts` texts with a model of a name.

    `max_unknown` is the share of a text's tokens that may be unknown; None is `MOST`, and warns instead of refusing.
    """

    def __init__(self, texts: int, model: str, max_unknown: float | None):
        self._texts, self._model = texts, model
        self._refuses, self._most = max_unknown is not None, MOST if max_unknown is None else max_unknown
        self._unknown, self._empty, self._no_tokens, self._over = 0, 0, 0, 0
        self._scripts: Counter[str] = Counter()
        self._shares: dict[str, float] = defaultdict(float)

    def add(self, texts: Sequence[str], readings: np.ndarray) -> None:
        """Count texts by their readings [N, 2]: tokens of each, without special ones and prompt, and unknown ones.

        Raises InputError once more than `FEW` of all texts exceed a limit that was set.
        """
        tokens, unknown = readings.T
        self._unknown += int(unknown.sum(dtype=np.int64))
        for row in np.flatnonzero(tokens == 0).tolist():
            blank = not texts[row].strip()
            self._empty, self._no_tokens = self._empty + blank, self._no_tokens + (not blank)
        for row in np.flatnonzero(unknown > self._most * tokens).tolist():
            script = script_of(texts[row])
            self._over += 1
            self._scripts[script] += 1
            self._shares[script] += float(unknown[row] / tokens[row])
        if self._refuses and self._over > FEW * self._texts:
            raise InputError(f"{self._what()} Raise --max_unknown (it is {self._most:g}), or {_remedy()}")

    def finish(self, lost: np.ndarray | None = None, limit: int = 0) -> None:
        """Warn where more than `FEW` of the texts are mostly unknown and no limit was set.

        Say how many lost tokens over the `limit`, if `lost` [N] counts these.
        """
        if lost is not None and (cut := np.count_nonzero(lost)):
            note(f"embed  {cut:,} of {len(lost):,} texts were cut off: {limit:,} tokens of a text are read")
        if self._over > FEW * self._texts:
            what = "Such texts look alike to the model, and count as crowded"
            warnings.warn(f"{self._what()} {what}: {_remedy()}", stacklevel=3)

    def facts(self) -> dict[str, Any]:
        """Return what a manifest holds of it: counts above 0 alone."""
        scripts = {
            name: {"texts": count, "unknown_share": round(self._shares[name] / count, 3)}
            for name, count in self._scripts.most_common()
        }
        counts = {"empty_texts": self._empty, "texts_without_tokens": self._no_tokens}
        counts |= {"unknown_tokens": self._unknown, "mostly_unknown_texts": self._over}
        kept: dict[str, Any] = {name: count for name, count in counts.items() if count}
        return kept | ({"mostly": self._most, "scripts": scripts} if scripts else {})

    def _what(self) -> str:
        """A refusal comes before the last text was read: it says how many there are so far."""
        count = "At least " * self._refuses + f"{self._over:,} of {self._texts:,} texts"
        count += "" if self._refuses else f" ({self._over / self._texts:.1%})"
        scripts = scripts_text(self.facts()["scripts"])
        return (
            f"{count} consist of tokens that {self._model} does not know for more than {self._most:.0%}, by script: "
            f"{scripts}."
        )


def script_of(text: str) -> str:
    """Return the script of most of a text's letters, as Unicode names begin with it (CYRILLIC), "SYMBOLS" for none."""
    letters = Counter(c for c in text[:_LOOKED_AT] if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNNAMED").split()[0].split("-")[0]] += count
    return scripts.most_common(1)[0][0] if scripts else "SYMBOLS"


def scripts_text(scripts: dict[str, dict[str, Any]]) -> str:
    """Return scripts in words, as `UnreadTexts.facts` gives them: "CYRILLIC 12 (91% unknown)"."""
    return ", ".join(f"{name} {one['texts']:,} ({one['unknown_share']:.0%} unknown)" for name, one in scripts.items())


def _remedy() -> str:
    return f"embed with a multilingual model, for instance --model {MULTILINGUAL} --allow_network."
