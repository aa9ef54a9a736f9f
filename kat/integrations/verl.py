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

from kat.density.sampling import draw_pass
from kat.errors import InputError
from kat.integrations.sampling import pass_seed

try:
    from verl.experimental.dataset.sampler import AbstractSampler
except ImportError:  # not installed, or of a version without the hook: the class still works by itself
    AbstractSampler = object


class DensitySampler(AbstractSampler):
    """Yield row numbers of a weighted pass: row i stands ⌊n·wᵢ/Σw⌋ or ⌈n·wᵢ/Σw⌉ times in n. verl repeats each prompt
    for its generations after sampling, so that they stay together.

    `data_source` is verl's data set, whose rows hold `weight`; `data_config` may hold `seed`. Every pass is another
    draw; `state_dict` and `load_state_dict` let a run go on in the middle of one.
    """

    def __init__(self, data_source: Sized, data_config: Mapping[str, Any]):
        frame: Any = getattr(data_source, "dataframe", data_source)
        names = getattr(frame, "column_names", None)
        if names is not None and "weight" not in names:
            raise InputError(
                f"The data set has no column weight; it has {', '.join(names)}. "
                "kat export-weights RUN --to verl writes one that has it."
            )
        self.weights = np.asarray(frame["weight"], np.float64)
        self.seed = int(data_config.get("seed") or 0)
        self.number, self._place = 0, 0

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        rows = draw_pass(self.weights, len(self.weights), pass_seed(self.seed, self.number)).tolist()
        for row in rows[self._place :]:
            self._place += 1
            yield row
        self.number, self._place = self.number + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Return the pass that is under way and how many of its rows were drawn."""
        return {"number": self.number, "place": self._place}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.number, self._place = state["number"], state["place"]
