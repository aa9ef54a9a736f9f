"""Worker processes: the same vectors as without, an error when one dies, none left behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import kat
from kat.embedding import encoder as encoders
from kat.embedding.workers import FUNCTION
from kat.errors import ModelError, OptionError, WorkerError
from kat.executors.base import Executor
from kat.executors.processes import Workers
from kat.executors.wire import receive, send


def texts(count: int) -> list[str]:
    draw = np.random.default_rng(0)
    words = ["bread", "tyre", "bicycle", "flour", "oven", "chain", "salt", "wheel", "dough", "pedal"]
    return [" ".join(draw.choice(words, n)) for n in draw.integers(1, 60, count)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def encoder():
    """Two workers, started for however little work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "WORTHWHILE", 0)
        with kat.Encoder("minilm", precision="float32", processes=2, batch_size=16) as made:
            yield made


def test_processes_do_not_change_the_vectors(encoder):
    given = texts(150)
    found = encoder.encode(given)
    assert len(encoder._workers.pids) == 2
    wanted = kat.encode(given, precision="float32", processes=1, batch_size=16)
    np.testing.assert_allclose(found.vectors, wanted.vectors, atol=1e-6)
    again = encoder.encode(given[::-1])
    np.testing.assert_allclose(again.vectors[::-1], wanted.vectors, atol=1e-6)
    assert (encoder.encode(given).vectors == found.vectors).all()


def test_a_worker_that_dies_is_an_error_at_once(encoder):
    given = texts(2000)
    encoder.encode(given[:40])
    victim, other = encoder._workers.pids
    pieces = encoder.tokenize(given)
    pooled = np.empty((len(pieces.lengths), 384), np.float32)
    with pytest.raises(WorkerError, match=r"signal 9.*processes 1"):  # noqa: PT012
        for _ in encoder.compute(pieces, range(len(encoder.packs(pieces))), pooled):
            os.kill(victim, signal.SIGKILL)
    assert not alive(other)
    assert len(encoder.encode(given[:40])) == 40  # new ones


def test_errors_of_workers_are_raised_here(tmp_path):
    engine = {"model": "nowhere", "device": "cpu", "precision": "float32", "pooling": None}
    with pytest.raises(ModelError, match="No model nowhere"):
        Workers(FUNCTION, [{"engine": engine, "threads": 1}], 1)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("os:system", OptionError, r"function is 'os:system'; expected kat\.MODULE:FUNCTION"),
        ("kat.embedding.workers", OptionError, "expected kat"),
        ("kat.nowhere:f", WorkerError, "ModuleNotFoundError: No module named 'kat.nowhere'"),
        ("kat.errors:nothing", WorkerError, "AttributeError"),
        ("kat.errors:KatError", WorkerError, "unpack"),  # a worker, but of no arrays
    ],
)
def test_a_worker_runs_a_function_of_kat_and_nothing_else(function, error, message):
    with pytest.raises(error, match=message):  # noqa: PT012
        workers = Workers(function, [{}], 1)
        list(workers.run([(0, [np.zeros(1)])]))


def test_workers_are_an_executor(encoder):
    encoder.encode(texts(30))
    workers = encoder._workers
    assert isinstance(workers, Executor)
    assert workers.count == 2
    pieces = encoder.tokenize(texts(7))
    tokens = [pieces.piece(i) for i in range(7)]
    tasks = ((n, [t, np.asarray([len(t)])]) for n, t in enumerate(tokens))
    vectors = dict(workers.run(tasks))
    assert sorted(vectors) == list(range(7))
    for number, arrays in vectors.items():
        np.testing.assert_allclose(arrays[0], encoder.engine.vectors([tokens[number]]), atol=1e-5)
    workers.close()
    workers.close()
    assert workers.count == 0
    assert list(workers.run([])) == []


def test_no_worker_outlives_its_parent(tmp_path, encoder):
    script = tmp_path / "script.py"  # without a main guard, and killed before it can clean up
    script.write_text(
        "import os, signal, kat\nfrom kat.embedding import encoder as e\ne.WORTHWHILE = 0\n"
        "kat.encode(['a', 'b', 'c'], processes=2, batch_size=1)\n"
        "print(*next(iter(e._cached.values()))._workers.pids, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 2
    limit = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_messages_survive_the_pipe():
    out, into = (os.fdopen(fd, mode, buffering=0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    arrays = [np.arange(5, dtype=np.int32), np.zeros((2, 3), np.float32), np.empty(0, np.int64)]
    send(into, {"number": 3}, arrays)
    send(into, {"words": "ä\0"})
    into.write(b"\x05\0\0\0\0")  # a writer that died in the middle
    into.close()
    header, found = receive(out)
    assert header == {"number": 3}
    for a, b in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert receive(out) == ({"words": "ä\0"}, [])
    assert receive(out) is None
