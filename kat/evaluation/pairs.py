"""The pairs that are evaluated: who belongs to which opening, bin and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kat.errors import InputError, MismatchError

BINS = 5
"""Density bins: fifths of the openings."""


@dataclass(frozen=True, eq=False)
class EvalPairs:
    """P pairs in any order. `ids` are distinct; `opening` and `src` [P] name each pair's opening and source.

    `bin` [P] int is the density bin, 0 the rarest, −1 where it is not known; None without densities. The lengths [P]
    of the completions, in characters, are None where not known.

    >>> kat.EvalPairs(ids=["a", "b"], opening=["q1", "q2"], src=["chat", "code"]).opening
    ['q1', 'q2']
    """

    ids: Sequence[str]
    opening: Sequence[str]
    src: Sequence[str]
    bin: np.ndarray | None = None
    chosen_chars: np.ndarray | None = None
    rejected_chars: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise InputError("There are no pairs to evaluate.")
        for name in ("opening", "src", "bin", "chosen_chars", "rejected_chars"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.ids):
                raise MismatchError(f"There are {len(self.ids):,} pairs, and {name} has {len(value):,} values.")
        if len(set(self.ids)) < len(self.ids):
            raise MismatchError("Pair ids repeat; each pair is evaluated once.")

    def __len__(self) -> int:
        return len(self.ids)

    def clusters(self) -> np.ndarray:
        """Return the number [P] of each pair's opening, from 0."""
        return np.unique(np.asarray(self.opening, str), return_inverse=True)[1]

    def subsets(self) -> dict[str, dict[str, np.ndarray]]:
        """Return rows by the name of a density bin ("bins"), and by source, largest first ("sources")."""
        subsets: dict[str, dict[str, np.ndarray]] = {"bins": {}, "sources": {}}
        if self.bin is not None:
            rows = {str(b): np.flatnonzero(np.asarray(self.bin) == b) for b in range(BINS)}
            subsets["bins"] = {name: of_bin for name, of_bin in rows.items() if len(of_bin)}
        names, place, counts = np.unique(np.asarray(self.src, str), return_inverse=True, return_counts=True)
        for i in np.argsort(-counts, kind="stable"):
            subsets["sources"][str(names[i])] = np.flatnonzero(place == i)
        return subsets
