"""What an executor is: workers that take numbered tasks of arrays and give arrays back.

`kat.executors.processes.Workers` is one, made of processes of this machine; `kat.executors.ray` makes others on a Ray
cluster. What is computed and what is done with it knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Arrays = list[np.ndarray]
"""What a task is made of, and its result: plain arrays, so that nothing has to be pickled on the way."""

Facts = Mapping[str, Any]
"""What a worker says of itself once it is ready, plain JSON: what its results may depend on."""

IDENTITY = ("host", "pid", "kat")
"""Of a worker's facts, those that no result depends on."""

Compute = Callable[[Arrays], Arrays]
"""What a worker does with a task."""


@runtime_checkable
class Executor(Protocol):
    """Workers that are ready for tasks. All of them compute the same function of arrays."""

    @property
    def count(self) -> int:
        """Return how many workers there are; 0 once they are closed."""

    @property
    def facts(self) -> Sequence[Facts]:
        """Return what each worker that was ready said of itself."""

    def run(self, tasks: Iterable[tuple[int, Arrays]]) -> Iterator[tuple[int, Arrays]]:
        """Yield (number, result) of each numbered task, in the order in which they are done.

        Tasks are taken from the iterable only as workers become free for them. Whatever error a worker meets is
        raised here, WorkerError if it ended; the workers are closed then.
        """

    def close(self) -> None:
        """End the work now and cancel what is being computed. Does nothing the second time."""


@runtime_checkable
class Launcher(Protocol):
    """Where workers come from: a cluster, whose machines outlast one kind of work."""

    @property
    def device(self) -> str | None:
        """Return the device that workers compute on, or None for the one of this machine."""

    @property
    def threads(self) -> int:
        """Return the threads that a worker may use."""

    @property
    def mixed(self) -> bool:
        """Return whether workers whose results may differ are allowed."""

    def start(
        self, function: str, settings: Mapping[str, Any], shared: Sequence[np.ndarray] = (), *, alike: bool = False
    ) -> Executor:
        """Return workers that compute one function, all with the same settings, plain JSON.

        `function` names a function of kat as "kat.module:function". A worker calls it with the settings and the
        `shared` arrays, which it must not change, and gets what answers its tasks and what it has to say of itself.
        With `alike` workers whose results may differ are refused, unless the user allows them. Those of the last
        `start`, if they are not closed, may be taken for it.

        Raises WorkerError if no worker gets ready, OptionError for workers that are not alike, or if those of the last
        `start` are in the middle of something, and whatever error the function raises there.
        """

    def close(self) -> None:
        """Let the workers go, and with them whatever this process started for them."""
