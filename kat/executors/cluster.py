"""What is known of a cluster whoever runs it: whether its head is there, and what a worker needs of what it has."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence

from kat.errors import WorkerError, first_words

REACH = 5.0
"""Seconds in which a cluster must answer."""
AWAY = 20.0
"""Seconds that a cluster's head may be away: after 60 a process that has lost it is ended, without a word of kat's."""
GO_ON = "The same command goes on from where this one was; --executor local needs no cluster."


class Head:
    """The machine that a cluster hangs on, at "host:port". An error comes before the cluster ends this process."""

    def __init__(self, address: str):
        self.address, self.is_gone = address, False
        host, _, port = address.rpartition(":")
        self._at = (host.strip("[]"), int(port))
        self._seen = time.monotonic()

    def look(self, seconds: float = 0.0) -> None:
        """Wait until the head answers, unless it did in the last so many seconds. Raises WorkerError if it is gone."""
        begun = time.monotonic()
        if begun - self._seen < seconds:
            return
        while True:
            try:
                socket.create_connection(self._at, timeout=REACH).close()
            except OSError as error:
                if time.monotonic() - begun < AWAY:
                    time.sleep(1.0)
                    continue
                self.is_gone = True
                raise WorkerError(
                    f"The head of the cluster at {self.address} is gone: {first_words(error)} Start it again. {GO_ON}"
                ) from error
            self._seen = time.monotonic()
            return


def room_message(
    needs: Mapping[str, float],
    free: Mapping[str, float],
    total: Mapping[str, float],
    machines: Sequence[Mapping[str, float]],
) -> str:
    """Say what a worker `needs` of CPU and GPU, what the cluster has, `total` and `free`, and what to type."""
    words = {"CPU": ("core", "cores"), "GPU": ("graphics device", "graphics devices")}
    asked = " and ".join(f"{n:g} {words[kind][n != 1]}" for kind, n in needs.items() if n or kind == "CPU")
    has = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {words[kind][1]}" for kind in words)
    large = any(all(machine.get(kind, 0) >= n for kind, n in needs.items()) for machine in machines)
    lacks = "" if large else " No machine of it is that large."
    smaller = ["--cpus_per_worker"] * (needs["CPU"] > 1) + ["--gpus_per_worker 0.5, or 0"] * (needs["GPU"] > 0)
    less = f"ask for less ({'; '.join([*smaller, '--ray_workers'])})"
    have = f"each needs {asked}, and free on the cluster are {has}.{lacks}"
    return f"{have} Wait for other work, add machines, or {less}."
