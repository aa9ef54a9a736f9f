"""Workers that are lost: their tasks are given out again, and nobody waits for one that does not come."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from kat import __version__
from kat.errors import InputError, OptionError, WorkerError
from kat.executors import crew
from kat.executors.base import Executor
from kat.executors.crew import Crew


class Fake:
    """A backend in this process: it answers one reference at a time, in an order of its own.

    `dies(worker, number)` tells whether a worker is lost at a task, `gets_ready(worker)` what it says when it begins:
    facts, None if it is lost, "never" if it has no room, "loading" if it has started and is not ready.
    """

    now = 0.0
    """Seconds that were waited for in vain: the clock."""

    def __init__(self, dies=lambda worker, number: False, gets_ready=lambda worker: {}, seed=0):
        self.dies, self.gets_ready = dies, gets_ready
        self.names, self.references = itertools.count(), itertools.count()
        self.draw = np.random.default_rng(seed)
        self.queues = {}  # {worker: [(reference, task)]}
        self.answers, self.began = {}, {}
        self.ended, self.returned = [], []
        self.most = 0

    def hire(self):
        worker = f"w{next(self.names)}"
        self.queues[worker] = []
        return worker

    def begin(self, worker):
        reference = next(self.references)
        said = self.gets_ready(worker)
        self.began[worker] = said
        if said not in ("never", "loading"):
            self.answers[reference] = None if said is None else self._said(worker, said)
        return reference

    def has_started(self, worker):
        return self.began[worker] != "never"

    def _said(self, worker, said):
        if "error" in said:
            return said
        return {"facts": {"host": worker, "pid": 1, **said}}

    def give(self, worker, arrays):
        reference = next(self.references)
        self.queues[worker].append((reference, int(arrays[0][0])))
        self.most = max(self.most, sum(map(len, self.queues.values())))
        return reference

    def wait(self, references, seconds):
        ready = [r for r in references if r in self.answers]
        heads = [w for w, queue in self.queues.items() if queue and queue[0][0] in references]
        if ready:
            return [ready[0]]
        if not heads:
            Fake.now += seconds
            return []
        worker = heads[self.draw.integers(len(heads))]
        reference, number = self.queues[worker][0]
        if self.dies(worker, number):
            for one, _ in self.queues.pop(worker):
                self.answers[one] = None
            return list(dict.fromkeys([reference, *(r for r in references if r in self.answers)]))
        self.queues[worker].pop(0)
        self.answers[reference] = {"arrays": [np.asarray([number * number])]}
        return [reference]

    def answer(self, reference):
        return self.answers.pop(reference)

    def arrays(self, answer):
        return answer["arrays"]

    def end(self, worker):
        self.ended.append(worker)
        self.queues.pop(worker, None)

    def take_back(self, workers):
        self.returned += workers

    def no_room(self):
        return "all cores are taken."


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(Fake, "now", 0.0)
    monkeypatch.setattr(crew, "monotonic", lambda: Fake.now)


def crew_of(backend, count=3, **options):
    return Crew(backend, [backend.hire() for _ in range(count)], **{"alike": False, **options})


def tasks(count):
    return ((n, [np.asarray([n])]) for n in range(count))


def squares(executor, count):
    return {number: int(arrays[0][0]) for number, arrays in executor.run(tasks(count))}


@pytest.mark.parametrize("seed", range(20))
def test_every_task_is_answered_once_whoever_dies(seed):
    draw = np.random.default_rng(seed)
    fatal = {(f"w{w}", int(n)) for w in range(12) for n in draw.choice(40, 4, replace=False)}
    spent = {}

    def dies(worker, number):
        if (worker, number) in fatal and spent.get(number, 0) < 2:
            spent[number] = spent.get(number, 0) + 1
            return True
        return False

    backend = Fake(dies, seed=seed)
    executor = crew_of(backend)
    assert isinstance(executor, Executor)
    results = list(executor.run(tasks(40)))
    assert sorted(n for n, _ in results) == list(range(40))
    assert all(arrays[0][0] == n * n for n, arrays in results)
    executor.close()
    assert executor.count == 0
    assert not set(backend.returned) & set(backend.ended)
    assert set(backend.queues) == set(backend.returned)  # none is left at work


def test_a_task_that_costs_three_workers_is_an_error_that_names_it():
    backend = Fake(lambda worker, number: number == 7)
    executor = crew_of(backend)
    with pytest.raises(WorkerError, match="Task 7 was being computed when 3 workers were lost") as caught:
        squares(executor, 30)
    assert caught.value.task == 7
    assert executor.count == 0
    assert len(backend.ended) >= 3


def test_the_task_that_waited_is_not_blamed():
    """A worker holds two tasks; its end is the first one's fault, however often the second waits behind it."""
    losses = {0: 2, 1: 2, 2: 2, 3: 2}

    def dies(worker, number):
        losses[number] = losses.get(number, 0) - 1
        return losses[number] >= 0

    assert squares(crew_of(Fake(dies), count=1), 4) == {0: 0, 1: 1, 2: 4, 3: 9}


def test_few_tasks_are_under_way_and_none_is_taken_early():
    backend, taken = Fake(), []

    def lazily():
        for number, arrays in tasks(100):
            taken.append(number)
            yield number, arrays

    executor = crew_of(backend, count=3)
    for done, _ in enumerate(executor.run(lazily()), 1):
        assert len(taken) <= done + 3 * crew._AHEAD
    assert backend.most == 3 * crew._AHEAD


def test_errors_of_workers_are_raised_here_and_end_the_work():
    backend = Fake()
    backend.answer = lambda reference: (
        {"error": "InputError", "message": "row 3 is bad"}
        if backend.answers.get(reference, {}).get("arrays")
        else backend.answers.pop(reference)
    )
    executor = crew_of(backend)
    with pytest.raises(InputError, match="row 3 is bad"):
        squares(executor, 5)
    assert executor.count == 0


def test_a_worker_that_is_lost_as_it_gets_ready_is_replaced():
    lost = iter([None, None])
    backend = Fake(gets_ready=lambda worker: next(lost, {}))
    assert squares(crew_of(backend), 10) == {n: n * n for n in range(10)}


def test_workers_that_are_all_lost_as_they_get_ready_are_an_error():
    backend = Fake(gets_ready=lambda worker: None)
    with pytest.raises(WorkerError, match=r"workers were lost while they got ready.*memory"):
        crew_of(backend)


def test_some_that_are_lost_as_they_get_ready_end_nothing():
    """A machine without kat, or without memory, among others that are fine."""
    backend = Fake(gets_ready=lambda worker: None if worker in ("w0", "w1", "w2", "w3", "w4") else {})
    executor = crew_of(backend, count=8)
    assert executor.count >= 3
    assert squares(executor, 30) == {n: n * n for n in range(30)}


def test_a_closed_crew_does_not_leave_tasks_in_silence():
    executor = crew_of(Fake())
    executor.close()
    assert list(executor.run([])) == []
    with pytest.raises(WorkerError, match="no worker left"):
        squares(executor, 3)


def test_no_room_is_said_soon_and_an_error_in_the_end(capsys):
    with pytest.raises(WorkerError, match=r"No worker started in 601 s: all cores are taken"):
        crew_of(Fake(gets_ready=lambda worker: "never"))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "workers   3 of 3 did not start in 10 s: all cores are taken."
    assert [line.partition(" in ")[2].partition(":")[0] for line in said] == [
        f"{10 * 2**n} s" for n in range(len(said))
    ]
    assert len(said) == 6  # 10 s to 320 s


def test_workers_that_load_are_not_taken_for_no_room(capsys):
    """One machine has a worker that loads for half an hour, the others have no room: nobody gives up."""

    class Slow(Fake):
        def wait(self, references, seconds):
            if Fake.now > 1800 and self.began["w0"] == "loading":
                self.began["w0"] = {}
                self.answers[0] = self._said("w0", {})
            return super().wait(references, seconds)

    executor = crew_of(Slow(gets_ready=lambda worker: "loading" if worker == "w0" else "never"))
    assert executor.count == 1
    assert "2 of 3 did not start in 10 s: all cores are taken" in capsys.readouterr().err
    with pytest.raises(WorkerError, match=r"have started, and none was ready after 3601 s of loading") as caught:
        crew_of(Fake(gets_ready=lambda worker: "loading"))
    assert "cores" not in str(caught.value)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "workers   have started, and load libraries and model for 10 s"


def test_a_worker_is_replaced_and_its_successor_gets_all_the_time(capsys):
    """It loads for long, dies, and another is hired, which has no room yet: its own wait counts."""

    class Dying(Fake):
        def wait(self, references, seconds):
            if Fake.now > 500 and 0 in references:
                self.answers[0] = None
            return super().wait(references, seconds)

    with pytest.raises(WorkerError, match=r"No worker started in 601 s"):
        crew_of(Dying(gets_ready=lambda worker: "loading" if worker == "w0" else "never"), count=1)
    assert Fake.now > 1100


def test_nobody_waits_for_those_that_do_not_come(capsys):
    backend = Fake(gets_ready=lambda worker: {} if worker == "w0" else "never")  # the others are at other work
    executor = crew_of(backend)
    assert executor.count == 1
    Fake.now += 30
    assert squares(executor, 10) == {n: n * n for n in range(10)}
    executor.close()
    assert set(backend.ended) == {"w1", "w2"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1  # once, for the work goes on
    assert "2 of 3 did not start" in said[0]
    assert "the others work meanwhile: all cores are taken." in said[0]


def test_the_last_worker_may_die_and_none_come():
    backend = Fake(dies=lambda worker, number: number == 5, gets_ready=lambda worker: {} if worker == "w0" else "never")
    executor = crew_of(backend, count=1)
    with pytest.raises(WorkerError, match="No worker started"):
        squares(executor, 10)


def test_an_error_as_workers_begin_leaves_none():
    backend = Fake()

    def begin(worker, plain=backend.begin):
        if worker == "w1":
            raise WorkerError("the cluster is gone")
        return plain(worker)

    backend.begin = begin
    with pytest.raises(WorkerError, match="the cluster is gone"):
        crew_of(backend, count=4)
    assert sorted(backend.ended) == ["w0", "w1", "w2", "w3"]


def test_workers_of_two_kinds_are_refused_unless_that_is_meant():
    kinds = {"w0": {"instructions": "AVX512"}, "w1": {"instructions": "AVX2"}, "w2": {"instructions": "AVX512"}}
    with pytest.raises(OptionError, match=r"instructions is AVX512 on w0 and AVX2 on w1.*--mixed_workers"):
        crew_of(Fake(gets_ready=kinds.get), alike=True)
    executor = crew_of(Fake(gets_ready=kinds.get))
    assert [facts["instructions"] for facts in executor.facts] == ["AVX512", "AVX2", "AVX512"]


def test_a_replacement_of_another_kind_is_refused_too():
    backend = Fake(
        dies=lambda worker, number: worker == "w1" and number > 3,
        gets_ready=lambda worker: {"instructions": "AVX2" if worker > "w2" else "AVX512"},
    )
    executor = crew_of(backend, alike=True)
    with pytest.raises(OptionError, match="two kinds"):
        squares(executor, 30)
    assert "w3" in backend.ended


def test_another_version_of_kat_or_an_unseen_folder_is_said_by_the_worker(tmp_path):
    from kat.executors.actor import Actor

    said = Actor().begin("9.9", "kat.nowhere:f", {})
    assert said["error"] == "OptionError"
    assert "has kat" in said["message"]
    assert "the command 9.9" in said["message"]
    said = Actor(str(tmp_path / "nowhere")).begin(__version__, "kat.nowhere:f", {})
    assert "--shared_dir must be a folder that all machines see" in said["message"]


def test_what_is_handed_over_is_complete_or_an_error(tmp_path):
    from kat.executors.actor import _written, handed_over

    arrays = [np.arange(5), np.ones((2, 3), np.float32)]
    file = Path(_written(str(tmp_path), arrays))
    for one, other in zip(handed_over(str(file)), arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(WorkerError, match="a folder that all machines see"):
        handed_over(str(file))  # it is gone
    file = Path(_written(str(tmp_path), arrays))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(WorkerError, match="not complete on this machine"):
        handed_over(str(file))


def test_work_that_is_broken_off_ends_what_is_under_way():
    backend = Fake()
    executor = crew_of(backend)
    for _ in executor.run(tasks(50)):
        break
    executor.close()
    assert backend.ended
    assert all(worker not in backend.queues or not backend.queues[worker] for worker in backend.returned)
