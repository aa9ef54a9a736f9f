"""Signals at any time: while modules load, in the middle of work, during the cleaning up, and when they are ignored."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from making import jsonl, pair, write

from kat.cli.signals import Stopped, Stops

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are Unix's")

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
BOTH = {"kat": "from kat.cli.process import main; ", "script": "from kat.cli.process import run_script; "}
CALLS = {"kat": "main()", "script": "run_script('kat_make_prefixes')"}
DEFAULT = "import os, signal; signal.signal(2, signal.default_int_handler); "


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", jsonl(*(pair(f"q{i}") for i in range(6))))


def ended(ran, number):
    assert ran.rc == 128 + number, ran.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith("kat: interrupted")
    assert (number == signal.SIGINT) or number.name in ran.stderr


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def stopping(module, number):
    """Code that sends a signal to its own process as a module is about to be imported."""
    return (
        f"import sys\nclass Stop:\n    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), {int(number)})\n"
        f"sys.meta_path.insert(0, Stop())\n"
    )


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("module", ["kat.cli.main", "cyclopts", "kat.errors", "kat.stages.prefixes", "kat.data.pairs"])
@pytest.mark.parametrize("entry", BOTH)
def test_while_modules_load(python, pairs, tmp_path, entry, module, number):
    code = DEFAULT + BOTH[entry] + "\n" + stopping(module, number) + CALLS[entry]
    argv = ["prefixes", pairs] if entry == "kat" else ["--pairs_path", pairs]
    ended(python("-c", code, *argv, "--out", "new/o.jsonl"), number)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("entry", BOTH)
def test_before_signals_are_seen_to(python, entry):
    """In the milliseconds in which the module that sees to them loads."""
    code = f"{DEFAULT}\n{stopping('kat.cli.signals', signal.SIGINT)}{BOTH[entry]}{CALLS[entry]}"
    ended(python("-c", code), signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_second_one_ends_the_cleaning_up(python, pairs, number):
    code = (
        f"{DEFAULT}{BOTH['kat']}\nimport kat.stages.prefixes as stage\n"
        "def stop(*_, **__):\n    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    finally:\n"
        f"        try: os.kill(os.getpid(), {int(number)}); len('')\n"
        "        except BaseException: pass\n"
        "        print('still here')\n"
        "stage.collect_openings = stop\nmain()"
    )
    ran = python("-c", code, "prefixes", pairs, "--out", "new/o.jsonl")
    ended(ran, number)
    assert "still here" not in ran.stdout


def test_one_after_the_message_adds_none(python, pairs):
    code = (
        f"{DEFAULT}{BOTH['kat']}\nimport atexit\natexit.register(lambda: os.kill(os.getpid(), 2))\n"
        "import kat.stages.prefixes as stage\n"
        "def stop(*_, **__): os.kill(os.getpid(), 15)\nstage.collect_openings = stop\nmain()"
    )
    ran = python("-c", code, "prefixes", pairs, "--out", "o.jsonl")
    assert ran.rc == 130
    assert ran.stderr.count("interrupted") == len(ran.stderr.splitlines()) == 1


def with_streams_gone(tmp_path, gone, code, *argv, unbuffered=""):
    """Run code whose stdout or stderr nobody reads any more."""
    reader, dead = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    streams |= {name: dead for name in streams if gone in (name, "both")}
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ran = subprocess.run([sys.executable, "-c", code, *argv], cwd=tmp_path, check=False, env=env, **streams)
    os.close(dead)
    return ran


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("gone", ["stdout", "stderr", "both"])
def test_when_the_terminal_is_gone_the_status_is_the_same(pairs, tmp_path, number, gone):
    code = (
        f"{DEFAULT}{BOTH['kat']}\nimport kat.stages.prefixes as stage\n"
        f"def stop(*_, **__):\n    print('something')\n    os.kill(os.getpid(), {int(number)})\n"
        "stage.collect_openings = stop\nmain()"
    )
    ran = with_streams_gone(tmp_path, gone, code, "prefixes", pairs, "--out", "o.jsonl")
    assert ran.returncode == 128 + number
    if gone == "stdout":
        assert ran.stderr.decode().count("\n") == 1, ran.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("gone", ["stdout", "stderr", "both"])
def test_an_error_that_nobody_reads(tmp_path, gone, unbuffered):
    ran = with_streams_gone(tmp_path, gone, f"{BOTH['kat']}main()", "prefixes", "none.jsonl", unbuffered=unbuffered)
    assert ran.returncode == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_closes_while_a_stage_prints(pairs, tmp_path, unbuffered):
    """It is no failure of the file that is written."""
    code = (
        f"{BOTH['kat']}\nimport kat.stages.prefixes as stage\ncollect = stage.collect_openings\n"
        "def told(*a, **k):\n    print('something')\n    return collect(*a, **k)\n"
        "stage.collect_openings = told\nmain()"
    )
    argv = ["prefixes", pairs, "--out", "o.jsonl"]
    ran = with_streams_gone(tmp_path, "stdout", code, *argv, unbuffered=unbuffered)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_what_is_ignored_stays_ignored(python, pairs, tmp_path, number):
    """As nohup ignores SIGHUP, and a shell SIGINT of what it starts in the background."""
    ignore = f"import os, signal; signal.signal({int(number)}, signal.SIG_IGN); "
    code = (
        ignore + BOTH["kat"] + "\n" + stopping("kat.cli.main", number) + stopping("kat.data.pairs", number) + "main()"
    )
    ran = python("-c", code, "prefixes", pairs, "--out", "o.jsonl")
    assert (ran.rc, ran.stderr) == (0, "")
    assert (tmp_path / "o.jsonl").is_file()


def test_one_that_a_callback_swallows_comes_again(python, pairs, tmp_path):
    code = (
        f"{DEFAULT}{BOTH['kat']}\nimport time\nimport kat.stages.prefixes as stage\n"
        "class Last:\n    def __del__(self): os.kill(os.getpid(), 2); len('')\n"
        "def stop(*_, **__):\n    Last()\n    for _ in range(3000): time.sleep(0.01)\n    print('still here')\n"
        "stage.collect_openings = stop\nmain()"
    )
    ended(python("-c", code, "prefixes", pairs, "--out", "new/o.jsonl"), signal.SIGINT)
    assert not (tmp_path / "new").exists()


def test_one_that_a_library_takes_for_another_error():
    with pytest.raises(Stopped) as stopped, Stops():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise ImportError("something could not be imported") from None
    assert stopped.value.number == signal.SIGTERM
    with pytest.raises(Stopped), Stops(), contextlib.suppress(BaseException):  # or goes on
        signal.raise_signal(signal.SIGTERM)


def test_handlers_of_somebody_else_stay():
    def theirs(*_):
        """Do nothing."""

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with Stops():
            assert signal.getsignal(signal.SIGTERM) is theirs
            assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_the_library_leaves_signals_alone(python):
    code = (
        f"{DEFAULT}import kat\nfrom kat.cli.main import app\nkat.find_neighbors, kat.read_pairs\n"
        f"own = (signal.SIG_DFL, signal.default_int_handler)\n"
        f"print([signal.getsignal(n) in own for n in {list(map(int, SIGNALS))}])"
    )
    assert python("-c", code).stdout.strip() == "[True, True, True]"


def test_outside_of_the_main_thread_nothing_is_set():
    from concurrent.futures import ThreadPoolExecutor

    def run():
        with Stops():
            return [signal.getsignal(number) for number in SIGNALS]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("when", ["as workers begin", "as they work"])
def test_a_whole_group_of_processes(process, tmp_path, number, when):
    """As a terminal does it: no worker says a word or stays."""
    code = (
        f"{DEFAULT}import sys\nfrom kat.cli.process import main\n"
        "import kat.executors.processes as p, kat.embedding.encoder as e\ne.WORTHWHILE = 0\n"
        "start = p._start\ndef told(*a):\n    child = start(*a)\n"
        "    open('pids', 'a').write(f'{child.pid}\\n')\n    return child\np._start = told\nmain()"
    )
    rows = [pair(f"q{i} {'word ' * 200}") for i in range(3000)]
    write(tmp_path / "pairs.jsonl", jsonl(*rows))
    subprocess.run(
        [sys.executable, "-m", "kat.cli", "prefixes", "pairs.jsonl", "--out", "p.jsonl"], cwd=tmp_path, check=True
    )
    child = process("-c", code, "embed", "p.jsonl", "--out", "out", "--processes", "2", start_new_session=True)
    pids = tmp_path / "pids"
    journal = tmp_path / "out.unfinished" / "journal"

    def ready():
        if when == "as workers begin":
            return pids.is_file() and len(pids.read_text().splitlines()) == 2
        return journal.is_file() and len(journal.read_text().splitlines()) > 1

    limit = time.monotonic() + 100
    while not ready():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.01)
    if number == signal.SIGKILL:
        child.kill()  # the parent alone
    else:
        os.killpg(child.pid, number)
    _, err = child.communicate(timeout=60)  # ends only when no worker holds stderr any more
    lines = [line for line in err.decode().replace("\r", "\n").splitlines() if line.strip()]
    assert b"Traceback" not in err
    if number != signal.SIGKILL:
        assert child.returncode == 128 + number, err
        assert lines[-1].startswith("kat: interrupted")
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".kat-tmp*"))
    limit = time.monotonic() + 10
    while any(map(alive, pids.read_text().split())) and time.monotonic() < limit:
        time.sleep(0.05)  # until who took it over has noted its end
    assert not any(map(alive, pids.read_text().split()))
