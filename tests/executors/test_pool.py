"""One launcher, several kinds of work: the same workers, at one kind at a time, and none left behind."""

import pytest
from executors.test_crew import Fake, squares, tasks

from kat.errors import OptionError
from kat.executors.pool import Pool


class Pooled(Fake):
    def __init__(self, pool, **options):
        super().__init__(**options)
        self.take_back = pool.take_back


@pytest.fixture
def backend():
    """A backend with a pool, whose ends it counts."""
    ended = []
    pool = Pool(ended.append)
    made_here = Pooled(pool)
    made_here.pool, made_here.ended_idle = pool, ended
    return made_here


def hired(backend):
    return set(backend.queues)


def test_a_second_kind_of_work_takes_the_workers_of_the_first(backend):
    first = backend.pool.start(backend, 2, alike=False)
    assert squares(first, 5) == {n: n * n for n in range(5)}
    second = backend.pool.start(backend, 2, alike=False)  # the first was not closed
    assert first.count == 0
    assert squares(second, 5) == {n: n * n for n in range(5)}
    assert len(hired(backend)) == 2  # nobody asked for twice the room
    first.close()  # its owner's, later: nothing is given back twice
    second.close()
    assert sorted(backend.pool.idle) == sorted(hired(backend))


def test_work_that_goes_on_is_not_taken_from(backend):
    first = backend.pool.start(backend, 2, alike=False)
    under_way = first.run(tasks(10))
    results = [next(under_way)]
    with pytest.raises(OptionError, match="in the middle of other work"):
        backend.pool.start(backend, 2, alike=False)
    results += under_way
    assert sorted(number for number, _ in results) == list(range(10))
    assert squares(backend.pool.start(backend, 2, alike=False), 3) == {0: 0, 1: 1, 2: 4}
    assert len(hired(backend)) == 2


def test_work_that_was_broken_off_is_over(backend):
    first = backend.pool.start(backend, 2, alike=False)
    under_way = first.run(tasks(10))
    next(under_way)
    under_way.close()
    assert not first.is_running
    assert squares(backend.pool.start(backend, 2, alike=False), 3) == {0: 0, 1: 1, 2: 4}


def test_the_end_leaves_no_worker(backend):
    executor = backend.pool.start(backend, 3, alike=False)
    under_way = executor.run(tasks(10))
    next(under_way)
    backend.pool.close()
    assert executor.count == 0
    assert {*backend.ended, *backend.ended_idle} == {"w0", "w1", "w2"}
    assert not backend.pool.idle
    with pytest.raises(OptionError, match="were let go"):
        backend.pool.start(backend, 3, alike=False)


def test_who_closes_after_the_end_leaves_none_either(backend):
    executor = backend.pool.start(backend, 2, alike=False)
    backend.pool._crew = None  # one that the pool does not know any more
    backend.pool.close()
    executor.close()
    assert backend.ended_idle
    assert not backend.pool.idle
