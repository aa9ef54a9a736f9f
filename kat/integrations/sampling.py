"""The order in which TRL asks prompts: openings by systematic sampling in proportion to weight, groups together."""

from __future__ import annotations

from collections.abc import Iterator

from kat.density.opening_order import OpeningOrder
from kat.errors import OptionError


class DensityRepeatSampler:
    """Yield row numbers in the structure that TRL's GRPO wants of its RepeatSampler: batches of `batch_size` draws,
    each row `mini_repeat_count` times in a row, the batch `repeat_count` times over.

    A group of generations is one draw repeated: its rows stay together, which a plain weighted sampler does not keep. A
    pass has as many draws as the data set has rows; like TRL's, it leaves out a last incomplete batch.
    """

    def __init__(
        self, order: OpeningOrder, rows: int, mini_repeat_count: int, batch_size: int = 1, repeat_count: int = 1
    ):
        if rows < batch_size:
            raise OptionError(f"{rows:,} prompts do not fill a generation batch of {batch_size:,}; make it smaller.")
        self.order, self.epoch = order, 0
        self.mini_repeat_count, self.batch_size, self.repeat_count = mini_repeat_count, batch_size, repeat_count
        self._draws = rows // batch_size * batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose which pass comes next; each is another draw."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._draws * self.mini_repeat_count * self.repeat_count

    def __iter__(self) -> Iterator[int]:
        rows = self.order.rows(self._draws, self.epoch).tolist()
        self.epoch += 1
        for start in range(0, self._draws, self.batch_size):
            for _ in range(self.repeat_count):
                for row in rows[start : start + self.batch_size]:
                    yield from [row] * self.mini_repeat_count
