"""Commands of kat in forks of one warm process: each a process of its own, without the seconds that its imports take.

A fork holds the thread that made it and no other, so the warm process has one thread (`check_single`): it imports what
the commands of a first round imported, each in a fork of its own, and runs none of it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kat import digests
from tests.faults.calls import Call, Hook, install

T = TypeVar("T")
SECONDS = 60
"""After which a command hangs."""
HANGS = -1000
_ALONE = {
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Ran:
    """How a command ended: -9 where it was killed, HANGS where it did not end; the calls it made, if they counted."""

    rc: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...] = ()
    happened: bool = False


def alone() -> None:
    """Let libraries that are loaded from now on use one thread."""
    os.environ.update(_ALONE)


def learn(work: Callable[[], Any], *, imports: bool = True) -> Any:
    """Do work in a fork, and import here what it imported there; return what it returned."""
    with tempfile.TemporaryDirectory(prefix="kat-faults-") as said:
        out, err, told = (Path(said) / name for name in ("out", "err", "told"))
        rc = _end_of(_fork(lambda: (0, (work(), sorted(sys.modules), _signatures())), out, err, told))
        if rc != 0:
            raise RuntimeError(f"the campaign itself failed:\n{err.read_text()}")
        value, names, compiled = pickle.loads(told.read_bytes())
    for name in names if imports else ():
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):  # a name that is no module's own, such as those of torch.ops
                importlib.import_module(name)
    for module, name, signature in compiled if imports else ():
        if signature not in (kernel := getattr(sys.modules[module], name)).signatures:
            kernel.compile(signature)  # from the cache that the fork filled
    return value


def _signatures() -> list[tuple[str, str, Any]]:
    """Name the kernels that were compiled here; those that start threads of their own are left to each fork."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith("kat.")}
    return [
        (module, name, signature)
        for module, holder in modules.items()
        for name, value in vars(holder).items()
        if hasattr(value, "targetoptions") and not value.targetoptions.get("parallel")
        for signature in value.signatures
    ]


def check_single() -> list[str]:
    """Return the names of this process's further threads, which a fork would lack."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(os.getpid())]
    return [name for name in names if not name.startswith("jemalloc")]  # pyarrow's: it sees to forks by itself


def kat(words: list[str]) -> int:
    """Run a command in this process; return its exit status."""
    from kat.cli import main as cli

    config, show = cli.app.config, warnings.showwarning
    try:
        cli.main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        cli.app.config, warnings.showwarning = config, show
    return 0


def run(words: list[str], folder: Path, hook: Hook | None = None, *, before: Callable[[], Any] | None = None) -> Ran:
    """Run a command in a fork, in a folder, to its end. `before` is called in it first, to break something."""
    with started(words, folder, hook, before=before) as child:
        return child.end()


@dataclass(frozen=True)
class Child:
    """A command at work in a fork."""

    pid: int
    said: Path

    def stops(self) -> bool:
        """Wait until it stops itself; say whether it did, and did not end before."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            ended = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return ended.si_code == os.CLD_STOPPED
            time.sleep(0.002)
        return False

    def end(self) -> Ran:
        """Wait for its end."""
        rc = _end_of(self.pid)
        told = self.said / "told"
        calls, happened = pickle.loads(told.read_bytes()) if told.exists() else ((), rc == -signal.SIGKILL)
        out, err = ((self.said / name).read_text(errors="replace") for name in ("out", "err"))
        return Ran(rc, out, err, calls, happened)


@contextlib.contextmanager
def started(
    words: list[str], folder: Path, hook: Hook | None = None, *, before: Callable[[], Any] | None = None
) -> Iterator[Child]:
    """Start a command in a fork, in a folder."""
    with tempfile.TemporaryDirectory(prefix="kat-faults-") as said:
        out, err, told = (Path(said) / name for name in ("out", "err", "told"))
        yield Child(_fork(lambda: _command(words, folder, hook, before), out, err, told), Path(said))


def _command(words: list[str], folder: Path, hook: Hook | None, before: Callable[[], Any] | None) -> tuple[int, Any]:
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a campaign in the background ignores it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if before is not None:
        before()
    digests._SETTLED = 1 << 62  # no hash is kept: whether one is depends on the time, and so would the calls
    if hook is not None:
        install(hook)
    rc = kat(words)
    return rc, (tuple(hook.calls), hook.happened) if hook is not None else ((), False)


def _fork(work: Callable[[], tuple[int, Any]], out: Path, err: Path, told: Path) -> int:
    """Start a child that does the work and ends with its status; what it returns lies in `told`."""
    keep, rename = os.open, os.write  # before anything is counted
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    rc = 99
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(keep(path, os.O_WRONLY | os.O_CREAT), number)
        result = keep(told.with_name("telling"), os.O_WRONLY | os.O_CREAT)
        move = os.rename
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        rc, value = work()
        rename(result, pickle.dumps(value))
        move(told.with_name("telling"), told)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(rc)


def _end_of(child: int) -> int:
    until, wait = time.monotonic() + SECONDS, 0.001
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(wait)
        wait = min(2 * wait, 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HANGS


def in_forks(work: Callable[[T], Any], items: Iterable[T], jobs: int) -> Iterator[Any]:
    """Give `work(item)` of every item, each in a fork, `jobs` of them at a time, as they end."""
    with tempfile.TemporaryDirectory(prefix="kat-faults-") as folder:
        running: dict[int, tuple[T, Path]] = {}
        left = enumerate(items)
        while True:
            while len(running) < jobs and (next_one := next(left, None)) is not None:
                place = Path(folder) / str(next_one[0])
                place.mkdir()
                child = _fork(lambda item=next_one[1]: (0, work(item)), place / "out", place / "err", place / "told")
                running[child] = (next_one[1], place)
            if not running:
                return
            child, _ = os.waitpid(-1, 0)
            item, place = running.pop(child)
            if not (place / "told").exists():
                raise RuntimeError(f"the campaign itself failed at {item}:\n{(place / 'err').read_text()}")
            yield pickle.loads((place / "told").read_bytes())
