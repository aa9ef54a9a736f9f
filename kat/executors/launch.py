"""Where workers come from, as options say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kat.executor_config import ExecutorOptions

if TYPE_CHECKING:
    from kat.executors.base import Launcher


@contextlib.contextmanager
def launching(options: ExecutorOptions, device: str) -> Iterator[Launcher | None]:
    """Yield where workers come from, let go at the end; None for this machine's own processes.

    `device` is that of the command. Raises MissingExtraError without Ray, WorkerError for a cluster that cannot be
    reached.
    """
    if options.executor == "local":
        yield None
        return
    from kat.executors.ray import RayCluster

    cluster = RayCluster(options, device)
    try:
        yield cluster
    finally:
        cluster.close()
