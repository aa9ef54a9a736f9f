"""What a model thinks of pairs: their rewards, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kat.array_records import Columns, Rows, TableRecord, number, some_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class Scored(TableRecord):
    """Rewards [P] of the chosen and rejected completions of pairs, and the pairs' ids; as an array the margins [P]."""

    ids: Sequence[str]
    chosen: np.ndarray
    rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def _facts(self) -> Iterator[str]:
        yield number(len(self), "pair")
        if len(self):
            yield f"accuracy {self.accuracy:.1%}"
            yield f"log-loss {self.loss:.3f}"

    def _columns(self) -> Columns:
        return {"id": self.ids, "chosen": self.chosen, "rejected": self.rejected}

    def _values(self) -> np.ndarray:
        return self.chosen - self.rejected

    def _some(self, rows: Rows) -> Scored:
        return Scored(some_of(self.ids, rows), self.chosen[rows], self.rejected[rows])

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw how often each margin occurs; return matplotlib's axes. Above 0 the chosen completion has more.

        Raises InputError if there are none, MissingExtraError without matplotlib.
        """
        from kat.plots import histogram

        return histogram({"margin": self._values()}, repr(self), "reward of chosen − of rejected", "pairs", axes)

    @property
    def loss(self) -> float:
        """Return the mean of −log σ of the difference of rewards."""
        return float(np.logaddexp(0.0, self.rejected.astype(np.float64) - self.chosen).mean())

    @property
    def accuracy(self) -> float:
        """Return the share of pairs whose chosen completion has the higher reward, ties ½."""
        margin = self.chosen - self.rejected
        return float(((margin > 0) + 0.5 * (margin == 0)).mean())
