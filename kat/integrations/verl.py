"""A sampler for verl's `data.sampler` hook: prompts in proportion to their `weight` column.

    data.sampler.class_path=pkg://kat.integrations.verl data.sampler.class_name=DensitySampler \
    data.dataloader_num_workers=0

verl 0.5 to 0.7 has the hook. 0.8 and 0.9 have not: they take the data set's order, or shuffle it, and read
`train.drawn.parquet` with `data.shuffle=False` instead, which is a weighted pass, drawn already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np

from kat.density.opening_order import OpeningOrder, pass_seed
from kat.density.sampling import draw_pass
from kat.errors import InputError
from kat.integrations.weights import check_distinct

try:
    from verl.experimental.dataset.sampler import AbstractSampler
except ImportError:  # not installed, or of a version without the hook: the class still works by itself
    AbstractSampler = object


class DensitySampler(AbstractSampler):
    """Yield row numbers of a weighted pass: row i stands ⌊n·wᵢ/Σw⌋ or ⌈n·wᵢ/Σw⌉ times in n. verl repeats each prompt
    for its generations after sampling, so that they stay together.

    Where openings have several contexts, the opening is drawn by the sum of its rows, which take turns. A context (or
    opening, where each has one) that stands twice is a MismatchError: such a data set was drawn by weight already.

    `data_source` is verl's data set, whose rows hold `weight`; `data_config` may hold `seed`. Every pass is another
    draw; `state_dict` and `load_state_dict` let a run go on in the middle of one.
    """

    def __init__(self, data_source: Sized, data_config: Mapping[str, Any]):
        frame: Any = getattr(data_source, "dataframe", data_source)
        names = getattr(frame, "column_names", None)
        if names is not None and "weight" not in names:
            raise InputError(
                f"The data set has no column weight; it has {', '.join(names)}. "
                "kat export-weights RUN --to verl writes one that has it: train.parquet. (train.drawn.parquet is drawn "
                "by weight already, and read in its order.)"
            )
        self._openings = _openings(frame)
        self.weights = np.asarray(frame["weight"], np.float64)
        self.seed = int(data_config.get("seed") or 0)
        self.number, self._place = 0, 0

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        for row in self._pass()[self._place :]:
            self._place += 1
            yield row
        self.number, self._place = self.number + 1, 0

    def _pass(self) -> list[int]:
        """Return the rows of the pass that is under way."""
        if self._openings is None:
            return draw_pass(self.weights, len(self.weights), pass_seed(self.seed, self.number)).tolist()
        totals: dict[str, float] = {}
        for opening, weight in zip(self._openings, self.weights.tolist(), strict=True):
            totals[opening] = totals.get(opening, 0.0) + weight
        return OpeningOrder(self._openings, totals, self.seed).rows(len(self.weights), self.number).tolist()

    def state_dict(self) -> dict[str, int]:
        """Return the pass that is under way and how many of its rows were drawn."""
        return {"number": self.number, "place": self._place}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.number, self._place = state["number"], state["place"]


def _openings(frame: Any) -> list[str] | None:
    """Return each row's opening if some openings have several contexts.

    Raises MismatchError for one row twice, InputError where some rows have an id and others not.
    """
    if "extra_info" not in (getattr(frame, "column_names", None) or ()):
        return None
    ids = [dict(extra or {}) for extra in frame["extra_info"]]
    openings = [one.get("opening_id") for one in ids]
    contexts = [one.get("context_id") for one in ids]
    for name, values in (("opening_id", openings), ("context_id", contexts)):
        if 0 < (missing := values.count(None)) < len(values):
            raise InputError(
                f"{missing:,} of {len(values):,} rows have no extra_info.{name}, first row {values.index(None)}. "
                "Draw from one file of kat export-weights RUN --to verl."
            )
    if None in openings:
        return None  # not of kat: nothing names the rows
    if None in contexts:
        check_distinct(openings, "opening id")
        return None
    check_distinct(contexts, "context id")
    return [str(opening) for opening in openings]
