"""Workers on a Ray of this machine: the same bytes as without, whoever is killed, and nothing left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.52'")

import kat
from kat.devices import cpu_cores
from kat.embedding import encoder as encoders
from kat.errors import InputError, OptionError, WorkerError
from kat.executor_config import ExecutorOptions
from kat.executors import crew
from kat.executors.base import Launcher
from kat.executors.launch import launching
from kat.executors.ray import connect
from kat.neighbors import blocks, exact

ALL_WORK = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell may have it ignored
    "from kat.embedding import encoder; from kat.neighbors import blocks; encoder.WORTHWHILE = 0; "
    "blocks.LEAST = 100; blocks.BLOCKS = 10_000; blocks.FEW = 0; from kat.cli.main import main; main(sys.argv[1:])"
)
"""The command with workers for however little work."""


def command(*words, env=None):
    return subprocess.Popen(
        [sys.executable, "-c", ALL_WORK, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        start_new_session=True,  # a terminal sends Ctrl-C to all of it
    )


def ended(process, seconds=300):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "log.jsonl" and ".kat-lock" not in path.name
    }


def rays():
    """Process ids of Ray's own processes on this machine, by what they were started with."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if "kat-ray-" in words or words.startswith("ray::"):
                    found[int(folder.name)] = words
    return found


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    out = tmp_path_factory.mktemp("ray") / "pairs.jsonl"
    rc, _, err = ended(command("demo-data", "--out", out, "--pairs", 260))
    assert rc == 0, err
    return out


@pytest.fixture(scope="module")
def local(pairs):
    run = pairs.with_name("local")
    rc, _, err = ended(
        command("run", pairs, "--out", run, "--no_report", "--batch_size", 9, "--processes", cpu_cores())
    )
    assert rc == 0, err
    return run


@pytest.fixture(scope="module")
def cluster():
    before = rays()
    options = ExecutorOptions(executor="ray", ray_workers=2)
    with launching(options, "cpu") as launcher:
        yield launcher
    assert wait_until(lambda: not set(rays()) - set(before)), rays()
    assert not list(Path("/tmp").glob(f"kat-ray-{os.getpid()}-*"))


def test_a_run_gives_the_same_bytes(pairs, local, tmp_path):
    run, begun = pairs.with_name("on_ray"), time.time()
    words = ("run", pairs, "--out", run, "--no_report", "--batch_size", 9, "--executor", "ray", "--ray_workers", 2)
    rc, _, err = ended(command(*words, "--shared_dir", tmp_path))
    assert rc == 0, err
    assert [line for line in err.splitlines() if "ray" in line.lower() and not line.startswith("workers ")] == [
        "ray       starts on this machine"
    ]
    assert files_of(run) == files_of(local)
    assert not list(tmp_path.iterdir())
    assert ended(command("verify", run))[0] == 0
    token = Path.home() / ".ray" / "auth_token"
    assert not token.exists() or token.stat().st_mtime < begun  # Ray's own habit


def test_a_driver_that_is_killed_goes_on_and_leaves_nothing(pairs, local, tmp_path):
    before, run = set(rays()), pairs.with_name("killed")
    words = ("run", pairs, "--out", run, "--no_report", "--batch_size", 9, "--executor", "ray", "--ray_workers", 2)
    words += ("--shared_dir", tmp_path)
    (tmp_path / "kat-ray-1-a_strangers").mkdir()
    first = command(*words)
    journal = run / "embeddings.unfinished" / "journal"
    assert wait_until(lambda: journal.is_file() and journal.stat().st_size > 0, 120), ended(first)
    first.kill()
    first.wait()
    rc, _, err = ended(command(*words))
    assert rc == 0, err
    assert files_of(run) == files_of(local)
    assert wait_until(lambda: not set(rays()) - before), rays()  # Ray's own agent of the first takes a minute
    assert not list(Path("/tmp").glob(f"kat-ray-{first.pid}-*"))  # the next Ray removed it
    assert [path.name for path in tmp_path.iterdir()] == ["kat-ray-1-a_strangers"]


def test_ctrl_c(pairs, tmp_path):
    before, run = set(rays()), tmp_path / "run"
    process = command("run", pairs, "--out", run, "--batch_size", 9, "--executor", "ray", "--ray_workers", 2)
    journal = run / "embeddings.unfinished" / "journal"
    assert wait_until(lambda: journal.is_file() and journal.stat().st_size > 0, 120), ended(process)
    interrupted(process, before)


@pytest.mark.parametrize("process_of_ray", ["gcs_server", "raylet/raylet"])
def test_ctrl_c_while_ray_starts(pairs, tmp_path, process_of_ray):
    before = set(rays())
    process = command("run", pairs, "--out", tmp_path / "run", "--executor", "ray", "--ray_workers", 2)

    def starts():
        return any(process_of_ray in words for pid, words in rays().items() if pid not in before)

    assert wait_until(starts), ended(process)
    interrupted(process, before)


def interrupted(process, before):
    """Send what a terminal sends at Ctrl-C, and check how the command ends."""
    os.killpg(process.pid, signal.SIGINT)
    rc, _, err = ended(process)
    assert rc == 130, err
    assert err.strip().splitlines()[-1].startswith("kat: interrupted")
    assert "Traceback" not in err
    assert wait_until(lambda: not set(rays()) - before), rays()
    assert not list(Path("/tmp").glob(f"kat-ray-{process.pid}-*"))


def test_it_listens_to_this_machine_alone(cluster):
    """What listens on another address than 127.0.0.1 could be reached from the network."""
    mine = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) in rays()} | {os.getpid()}
    sockets = set()
    for pid in mine:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(link))
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].partition(":")[0])
    assert listening
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(listening) <= loopback


def clustered(rows=3000, columns=24):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, columns))[rng.integers(0, 30, rows)] + 0.3 * rng.normal(size=(rows, columns))
    return x.astype(np.float32)


def test_neighbours_whoever_is_killed(cluster, monkeypatch):
    monkeypatch.setattr(blocks, "LEAST", 150)
    monkeypatch.setattr(blocks, "BLOCKS", 10_000)
    x = clustered()
    wanted = exact.knn_self(x, 10)
    assert isinstance(cluster, Launcher)
    kills, done = [], threading.Event()

    def kill():
        draw = np.random.default_rng(1)
        while not done.wait(0.4) and len(kills) < 4:
            workers = [pid for pid, words in rays().items() if words.startswith("ray::Actor")]
            if workers:
                kills.append(int(draw.choice(workers)))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(kills[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(6):
            for one, other in zip(wanted, exact.knn_self(x, 10, launcher=cluster), strict=True):
                np.testing.assert_array_equal(one, other)
    finally:
        done.set()
        killer.join()
    assert kills


def test_texts(cluster, monkeypatch):
    monkeypatch.setattr(encoders, "WORTHWHILE", 0)
    texts = [f"text number {n} of {n % 7} and more {'words ' * (n % 31)}" for n in range(120)]
    with kat.Encoder("minilm", batch_size=8, processes=cpu_cores()) as one:
        wanted = one.encode(texts)
    with kat.Encoder("minilm", batch_size=8, launcher=cluster) as encoder:
        again = encoder.encode(texts)
        assert (again.vectors == wanted.vectors).all()
        assert again.meta == wanted.meta
        [way] = encoder.ways
        assert (way["device"], way["threads"]) == ("cpu", 1)
    assert cluster.pool.idle  # kept for the next work, their libraries loaded


def test_errors_of_workers_come_as_they_are(cluster):
    with pytest.raises(kat.KatError, match=r"kat\.MODULE:FUNCTION"):
        cluster.start("os:system", {})
    executor = cluster.start("kat.neighbors.blocks:make_worker", {"on": None}, [np.zeros(1)] * 6)
    with pytest.raises(WorkerError, match="KeyError"):
        list(executor.run([(0, [np.asarray([0, 1, 0, 1]), np.zeros(1)])]))


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("127.0.0.1:1", WorkerError, r"No Ray cluster answers at 127.0.0.1:1.*ray start --head"),
        ("ray://127.0.0.1:10001", OptionError, "expected HOST:PORT"),
        ("nowhere", OptionError, "expected HOST:PORT"),
        ("nowhere.invalid:6379", WorkerError, "No Ray cluster answers"),
    ],
)
def test_a_cluster_that_is_not_there(address, error, message):
    import ray

    begun = time.monotonic()
    with pytest.raises(error, match=message):
        connect(ray, address)
    assert time.monotonic() - begun < 60


def test_a_ray_that_is_started_already_is_used(cluster):
    """Somebody who has started Ray keeps it: it is joined, and goes on when the work is done."""
    import ray

    options = ExecutorOptions(executor="ray", ray_address="127.0.0.1:6379")
    with pytest.raises(OptionError, match="leave ray_address out"), launching(options, "cpu"):
        raise AssertionError("it is another one")
    with launching(ExecutorOptions(executor="ray"), "cpu") as other:
        assert isinstance(other, Launcher)
    assert ray.is_initialized()


def test_no_room_on_a_cluster(cluster, monkeypatch, capsys):
    monkeypatch.setattr(crew, "PATIENCE", 2.0)
    monkeypatch.setattr(crew, "NOTED", 0.5)
    options = ExecutorOptions(executor="ray", ray_workers=1, cpus_per_worker=1000)
    words = r"each needs 1000 cores, and free on the cluster are \d+ of \d+ cores, 0 of 0 graphics devices\. No machine"
    with launching(options, "cpu") as other, pytest.raises(WorkerError, match=f"No worker started in .*: {words}"):
        other.start("kat.neighbors.blocks:make_worker", {})
    assert "workers   1 of 1 did not start in " in capsys.readouterr().err


HEADLESS = """
import os, signal, time
from pathlib import Path
from kat.errors import WorkerError
from kat.executor_config import ExecutorOptions
from kat.executors import cluster
from kat.executors.launch import launching

cluster.AWAY = 2.0
with launching(ExecutorOptions(executor="ray", ray_workers=1), "cpu") as launcher:
    own = launcher._folder.path.name.encode()
    words = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    [head] = [path for path, line in words.items() if b"/gcs_server\\0" in line and own in line]
    os.kill(int(head.parent.name), signal.SIGKILL)
    time.sleep(1)
    try:
        launcher.start("kat.neighbors.blocks:make_worker", {})
    except WorkerError as error:
        print(error)
print("closed")
"""


def test_a_head_that_dies_is_an_error_and_nothing_is_left():
    before = set(rays())
    process = subprocess.Popen(
        [sys.executable, "-c", HEADLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    rc, out, err = ended(process)
    assert rc == 0, err
    assert "The head of the cluster at 127.0.0.1:" in out
    assert "is gone" in out
    assert "The same command goes on" in out
    assert out.endswith("closed\n")
    assert "Traceback" not in err
    assert wait_until(lambda: not set(rays()) - before), rays()
    assert not list(Path("/tmp").glob(f"kat-ray-{process.pid}-*"))


def test_without_ray(pairs, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('no ray')\n")
    rc, _, err = ended(
        command("run", pairs, "--out", tmp_path / "run", "--executor", "ray", env={"PYTHONPATH": str(tmp_path)})
    )
    assert rc == 2
    assert "pip install 'ray>=2.52'" in err
    assert "Traceback" not in err


def test_options_of_ray_want_ray():
    for given in ({"ray_workers": 3}, {"ray_address": "auto"}, {"mixed_workers": True}, {"shared_dir": Path("x")}):
        with pytest.raises(OptionError, match="add --executor ray"):
            ExecutorOptions(**given)
    with pytest.raises(OptionError, match="expected local, ray"):
        ExecutorOptions(executor="spark")


def test_a_bad_shared_dir(tmp_path):
    options = ExecutorOptions(executor="ray", shared_dir=tmp_path / "nowhere")
    with pytest.raises((kat.KatError, InputError), match="nowhere"), launching(options, "cpu"):
        raise AssertionError("there is no such folder")
