"""What an executor is: workers that take numbered tasks of arrays and give arrays back.

`kat.executors.processes.Workers` is one, made of processes of this machine; another may stand on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np

Arrays = list[np.ndarray]
"""What a task is made of, and its result: plain arrays, so that nothing has to be pickled on the way."""


@runtime_checkable
class Executor(Protocol):
    """Workers that are ready for tasks. All of them compute the same function of arrays."""

    @property
    def count(self) -> int:
        """Return how many workers there are; 0 once they are closed."""

    def run(self, tasks: Iterable[tuple[int, Arrays]]) -> Iterator[tuple[int, Arrays]]:
        """Yield (number, result) of each numbered task, in the order in which they are done.

        Tasks are taken from the iterable only as workers become free for them. Whatever error a worker meets is
        raised here, WorkerError if it ended; the workers are closed then.
        """

    def close(self) -> None:
        """End the workers now and cancel what they were computing. Does nothing the second time."""
