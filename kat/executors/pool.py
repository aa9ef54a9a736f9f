"""The workers of one launcher: kept from one kind of work to the next, and at one kind at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kat.errors import OptionError
from kat.executors.crew import Backend, Crew


class Pool:
    """Workers that are kept because their libraries are loaded; `end` ends one, whatever it is doing."""

    def __init__(self, end: Callable[[Any], None]):
        self.idle: list[Any] = []
        self._end = end
        self._crew: Crew | None = None
        self._is_closed = False

    def start(self, backend: Backend, count: int, *, alike: bool) -> Crew:
        """Return so many workers at a new kind of work: see `Crew`. Those of the last kind are taken for it.

        Raises what `settle` raises.
        """
        self.settle()
        while len(self.idle) < count:
            self.idle.append(backend.hire())
        workers, self.idle = self.idle[:count], self.idle[count:]
        self._crew = Crew(backend, workers, alike=alike)
        return self._crew

    def settle(self) -> None:
        """Take back the workers of the last kind of work: two kinds would each ask for all the room there is.

        Raises OptionError if they are in the middle of something, or if the pool is closed.
        """
        if self._is_closed:
            raise OptionError("These workers were let go. Start others: `with launching(…) as launcher: …`.")
        if self._crew is not None:
            if self._crew.is_running:
                raise OptionError(
                    "The workers of this launcher are in the middle of other work. Let that end, or close it: a "
                    "launcher does one kind of work at a time."
                )
            self._crew.close()

    def take_back(self, workers: Sequence[Any]) -> None:
        """Keep workers that have nothing to do, or end them if nobody will need them."""
        self.idle += workers
        if self._is_closed:
            self._end_idle()

    def close(self) -> None:
        """End all workers, those at work too."""
        self._is_closed = True
        if self._crew is not None:
            self._crew.close()
        self._end_idle()

    def _end_idle(self) -> None:
        while self.idle:
            self._end(self.idle.pop())
