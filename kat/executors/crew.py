"""Workers that may be lost and replaced: tasks are given out again, and a task that costs three workers is an error.

Where the workers are is a `Backend`'s to know. Nothing here waits for a worker that others can do without.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Protocol

from kat.errors import OptionError, WorkerError
from kat.executors.base import IDENTITY, Arrays, Facts
from kat.executors.processes import as_raised
from kat.terminal import note

_AHEAD = 2
"""Tasks that a worker has at a time: one that it computes, one that waits."""
_LOST = 3
"""Workers that a task may cost before it is taken for the cause."""
NOTED = 10.0
"""Seconds after which it is said what workers are waited for; while there is none, again after twice as long."""
PATIENCE = 600.0
"""Seconds in which some worker must have started, while there is none: clusters that grow take minutes for it."""
LOADING = 3600.0
"""Seconds that workers which have started may take to get ready, while there is none: large models load slowly."""
JOINING = 5.0
"""Seconds that the others are waited for once a worker is ready; they join later, or are at other work."""


class Backend(Protocol):
    """Where workers live. A worker and a reference to an answer of its are what the backend likes; both hash."""

    def hire(self) -> Any:
        """Ask for one more worker; it comes once there is room."""

    def begin(self, worker: Any) -> Any:
        """Let a worker get ready; return a reference to {"facts": …} or {"error": name, "message": …}."""

    def has_started(self, worker: Any) -> bool:
        """Tell whether a worker that begins has a machine and a process, or had. Before that it waits for room."""

    def give(self, worker: Any, arrays: Arrays) -> Any:
        """Give a worker a task; return a reference to {"arrays": …}, {"file": name} or {"error": …, "message": …}."""

    def wait(self, references: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return references whose answers have come, or whose workers are lost; none after so many seconds."""

    def answer(self, reference: Any) -> dict[str, Any] | None:
        """Return an answer that has come; None if its worker, or the machine that held it, is lost."""

    def arrays(self, answer: dict[str, Any]) -> Arrays:
        """Return the arrays of an answer."""

    def end(self, worker: Any) -> None:
        """End a worker, whatever it is doing. Does nothing to one that is lost."""

    def take_back(self, workers: Sequence[Any]) -> None:
        """Keep workers that have nothing to do for the next work."""

    def no_room(self) -> str:
        """Say what a worker needs, what there is of it, and what to do."""


class Crew:
    """Workers of a backend that compute one function: an `Executor`.

    With `alike` workers whose facts differ are refused. Raises WorkerError if no worker gets ready, OptionError for
    workers that are not alike, and whatever error a worker meets as it gets ready.
    """

    def __init__(self, backend: Backend, workers: Sequence[Any], *, alike: bool):
        self._backend, self._alike = backend, alike
        self._facts: list[Facts] = []
        self._starting: dict[Any, Any] = {}  # {reference of what it says: worker}
        self._ready: list[Any] = []
        self._at_work: dict[Any, tuple[Any, int, Arrays]] = {}  # {reference of the answer: (worker, number, task)}
        self._failed = 0  # workers that were lost before they were ready, one after the other
        self._asked, self._noted_at = monotonic(), NOTED  # when workers were hired; seconds from then to the next note
        self._is_running = False
        idle = deque(workers)
        try:
            while idle:
                self._starting[backend.begin(idle[0])] = idle[0]
                idle.popleft()
            self._await()
        except BaseException:
            for worker in idle:
                backend.end(worker)
            self.close()
            raise

    @property
    def count(self) -> int:
        """Return how many workers are ready; 0 once they are closed."""
        return len(self._ready)

    @property
    def facts(self) -> Sequence[Facts]:
        """Return what each worker that was ready said of itself."""
        return self._facts

    @property
    def is_running(self) -> bool:
        """Return whether tasks were given to `run` that are not all done."""
        return self._is_running

    def run(self, tasks: Iterable[tuple[int, Arrays]]) -> Iterator[tuple[int, Arrays]]:
        """Yield (number, result) of each numbered task: see `Executor`. Lost workers' tasks are given out again."""
        waiting, again = iter(tasks), deque[tuple[int, Arrays]]()
        lost: Counter[int] = Counter()
        self._is_running = True
        try:
            self._hand_out(again, waiting)
            while self._at_work or again:
                for reference in self._answers():
                    if reference in self._starting:
                        self._take_in(reference)
                    elif reference in self._at_work:  # else its worker was lost a moment ago
                        worker, number, _ = self._at_work[reference]
                        answer = self._backend.answer(reference)
                        if answer is None:
                            blamed = self._lose(worker, again)
                            lost[blamed] += 1
                            if lost[blamed] >= _LOST:
                                raise _deadly(blamed)
                            continue
                        del self._at_work[reference]
                        if "error" in answer:
                            raise as_raised(answer["error"], answer["message"])
                        # Before the result is used: no worker waits for that.
                        self._hand_out(again, waiting)
                        yield number, self._backend.arrays(answer)
                self._hand_out(again, waiting)
            if next(waiting, None) is not None:
                raise WorkerError("There is no worker left. Give the same command again.")
            self._is_running = False
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the work. Workers that are idle go back to the backend; what the others compute is lost."""
        busy = {worker for worker, _, _ in self._at_work.values()}
        for worker in [*self._starting.values(), *busy]:
            self._backend.end(worker)
        self._backend.take_back([worker for worker in self._ready if worker not in busy])
        self._starting, self._ready, self._at_work, self._is_running = {}, [], {}, False

    def _await(self) -> None:
        """Wait until all workers are ready, or the first of them and the others a little longer."""
        end = 0.0
        while self._starting and not (self._ready and monotonic() > end):
            alone = not self._ready
            for reference in self._answers():
                self._take_in(reference)
            if alone and self._ready:
                end = monotonic() + JOINING

    def _take_in(self, reference: Any) -> None:
        """Count a worker as ready, or hire another if it was lost."""
        worker = self._starting.pop(reference)
        answer = self._backend.answer(reference)
        if answer is None:
            self._failed += 1
            if self._failed < _LOST:
                self._replace()
            elif not self._ready and not self._starting:
                raise WorkerError(
                    f"{self._failed} workers were lost while they got ready, and there is none: memory that runs out, "
                    "or kat missing on that machine. --executor local needs none."
                )
            return
        try:
            if "error" in answer:
                raise as_raised(answer["error"], answer["message"])
            facts, self._failed = answer["facts"], 0
            if self._alike and self._facts:
                _check_alike(self._facts[0], facts)
        except BaseException:
            self._backend.end(worker)
            raise
        self._facts.append(facts)
        self._ready.append(worker)

    def _replace(self) -> None:
        worker = self._backend.hire()
        self._starting[self._backend.begin(worker)] = worker
        self._asked, self._noted_at = monotonic(), NOTED

    def _hand_out(self, again: deque[tuple[int, Arrays]], waiting: Iterator[tuple[int, Arrays]]) -> None:
        """Give every worker tasks until it has `_AHEAD` of them, first those that a lost worker had."""
        held = Counter(worker for worker, _, _ in self._at_work.values())
        for _ in range(_AHEAD):
            for worker in self._ready:
                if held[worker] >= _AHEAD:
                    continue
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    return
                held[worker] += 1
                self._at_work[self._backend.give(worker, task[1])] = (worker, *task)

    def _answers(self) -> Sequence[Any]:
        """Wait for an answer, or a worker that gets ready: a second, or as long as there is none that could work.

        Says what is waited for, and raises WorkerError if none comes.
        """
        begun = monotonic()
        while True:
            came = self._backend.wait([*self._at_work, *self._starting], 1.0)
            self._say_what_is_waited_for()
            if came or self._ready:
                return came
            self._check_patience(monotonic() - begun)

    def _say_what_is_waited_for(self) -> None:
        waited = monotonic() - self._asked
        if waited < self._noted_at or not self._starting:
            return
        self._noted_at = float("inf") if self._ready else 2 * self._noted_at
        waiting = [worker for worker in self._starting.values() if not self._backend.has_started(worker)]
        if waiting:
            of = len(self._starting) + len(self._ready)
            rest = "; the others work meanwhile" if self._ready else ""
            text = f"{len(waiting)} of {of} did not start in {waited:.0f} s{rest}: {self._backend.no_room()}"
            note(f"workers   {text}")
        elif not self._ready:
            note(f"workers   have started, and load libraries and model for {waited:.0f} s")

    def _check_patience(self, waited: float) -> None:
        """Raise WorkerError if there is no worker yet and there will be none, after so many seconds without news."""
        if any(self._backend.has_started(worker) for worker in self._starting.values()):
            if waited > LOADING:
                raise WorkerError(
                    f"Workers have started, and none was ready after {waited:.0f} s of loading libraries and model. "
                    "Look at their machines: a disk or a network that hangs. --executor local needs none."
                )
        elif waited > PATIENCE or not self._starting:
            raise WorkerError(f"No worker started in {waited:.0f} s: {self._backend.no_room()}")

    def _lose(self, worker: Any, again: deque[tuple[int, Arrays]]) -> int:
        """Take back the tasks of a worker that is lost, and hire another; return the number of the first of them.

        That is the one that it was computing: tasks are computed in the order in which they are given.
        """
        held = [reference for reference, (by, _, _) in self._at_work.items() if by is worker]
        tasks = [self._at_work.pop(reference)[1:] for reference in held]
        again.extend(tasks)
        self._ready.remove(worker)
        self._backend.end(worker)  # if only its answer was lost
        self._replace()
        return tasks[0][0]


def _check_alike(first: Facts, other: Facts) -> None:
    differing = [name for name in first if name not in IDENTITY and first[name] != other.get(name)]
    if differing:
        name = differing[0]
        raise OptionError(
            f"Workers are of two kinds, which round otherwise than each other: {name} is {first[name]} on "
            f"{first['host']} and {other.get(name)} on {other['host']}. Choose machines of one kind, or add "
            "--mixed_workers, which the manifest will say."
        )


def _deadly(number: int) -> WorkerError:
    error = WorkerError(
        f"Task {number} was being computed when {_LOST} workers were lost, one after the other. Where memory runs out, "
        "fewer workers a machine help: --ray_workers, --cpus_per_worker."
    )
    error.task = number
    return error
