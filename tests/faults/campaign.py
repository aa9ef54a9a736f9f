"""What a campaign is, and what is shared by all: the world, the files that are expected, and how they are compared."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from kat.run_folder import RUN_LOG
from tests.faults import forks
from tests.faults.calls import Call, Hook
from tests.faults.making import STAGES, Stage, build, copy_world

Files = dict[str, bytes]
T = TypeVar("T")
_NUMBER = re.compile(rb"\b[0-9a-f]{64}\b|\d+(\.\d+)?(e-?\d+)?")
_TIMES = ("README.md", "training.json", "training_log.jsonl", "manifest.json")


@dataclass(frozen=True)
class Result:
    """How one case ended: its row in the table, the stage, the place of the fault, and what was not as promised."""

    kind: str
    stage: str
    site: str
    ok: bool
    what: str = ""


@dataclass
class Expected:
    """A stage that nothing disturbs: its files before and after, the calls it makes, and files of which two runs
    differ (those that hold times), in which numbers count for nothing."""

    before: Files
    after: Files
    calls: tuple[Call, ...]
    loose: set[str]

    def is_one(self, name: str, data: bytes, of: Files) -> bool:
        """Whether a file is the one of that name."""
        other = of.get(name)
        if other is None or name not in self.loose:
            return data == other
        return _NUMBER.sub(b"0", data) == _NUMBER.sub(b"0", other)

    def difference(self, files: Files, of: Files) -> str:
        """Say where files differ from others; nothing if they do not."""
        for name in sorted({*files, *of}):
            if name not in files:
                return f"{name} is missing"
            if name not in of:
                return f"{name} is left"
            if not self.is_one(name, files[name], of):
                return f"{name} has other bytes"
        return ""


@dataclass
class World:
    """Where a campaign works, with the stages that it covers."""

    root: Path
    stages: dict[str, Stage]
    jobs: int = 1
    cases: int | None = None
    breaks: Callable[[], Any] | None = None
    site: str = ""
    """A part of the sites that are disturbed."""
    until: float = math.inf
    """By `time.monotonic`: no case begins later."""
    _expected: dict[tuple[str, str], Expected] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Path:
        """The folder of what stages read, made once."""
        folder = self.root / "case-inputs"
        reads = {word for one in self.stages.values() for word in (*one.command, *one.before)}
        if not folder.exists():
            forks.learn(lambda: build(folder, reward="reward" in reads), imports=False)
        return folder

    def begin(self) -> None:
        """Make what stages read, and run each of them once, so that forks have nothing to import."""
        for one in self.stages.values():
            folder = copy_world(self.inputs, self.root / "case-warming")
            forks.learn(lambda folder=folder, one=one: (os.chdir(folder), forks.kat(one.command)))
            forks.learn(lambda folder=folder, one=one: forks.kat(["verify", str(folder / one.output)]))
            shutil.rmtree(folder)
        if threads := forks.check_single():
            raise RuntimeError(f"a fork would lack these threads: {', '.join(threads)}")

    def fresh(self, name: str, state: str, case: str) -> Path:
        """Return a folder in which the stage's command can be run."""
        source = self.inputs if state == "fresh" else self.root / f"older-{name}"
        return copy_world(source, self.root / f"case-{case}")

    def command(self, name: str, state: str) -> list[str]:
        """The command of a stage."""
        return [*self.stages[name].command, *(["--overwrite"] if state == "over" else [])]

    def expected(self, name: str, state: str) -> Expected:
        """What a stage does undisturbed, found once."""
        if (name, state) not in self._expected:
            self._expected[name, state] = self._undisturbed(name, state)
        return self._expected[name, state]

    def _undisturbed(self, name: str, state: str) -> Expected:
        older = self.root / f"older-{name}"
        if state == "over" and not older.exists():
            copy_world(self.inputs, older)
            self._must(self.stages[name].before, older)
        runs = []
        for case in ("first", "again"):
            folder = self.fresh(name, state, case)
            before, hook = contents(folder), Hook(str(folder))
            ran = self._must(self.command(name, state), folder, hook)
            runs.append((before, contents(folder), ran.calls))
            shutil.rmtree(folder)
        (before, after, calls), (_, again, _) = runs
        if before == after:
            raise RuntimeError(f"{name} makes nothing, {state}: its older output is what it makes")
        times = _TIMES if name.startswith("train-") else ()  # a training that was resumed took another time
        loose = {one for one in after if after[one] != again.get(one) or Path(one).name in times}
        return Expected(before, after, calls, loose)

    def _must(self, words: list[str], folder: Path, hook: Hook | None = None) -> forks.Ran:
        ran = forks.run(words, folder, hook)
        if ran.rc != 0:
            raise RuntimeError(f"undisturbed, {words} ended with {ran.rc}: {ran.stdout}{ran.stderr}")
        return ran


def in_time(world: World, cases: Iterable[T]) -> Iterator[T]:
    """Give cases for as long as any may begin."""
    return itertools.takewhile(lambda _: time.monotonic() < world.until, cases)


def contents(folder: Path) -> Files:
    """Return the bytes of all files below a folder by name; the folder's own name stands for nothing in them.

    Logs, which hold times, are left out.
    """
    own = str(folder).encode()
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(own, b"WORLD")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != RUN_LOG
    }


Campaign = Callable[[World, Random, bool], Iterable[Result]]


def run_campaigns(campaigns: Iterable[Campaign], world: World, seed: int, full: bool) -> Iterator[Result]:
    """Run campaigns one after the other, each from the same seed."""
    for campaign in campaigns:
        yield from campaign(world, Random(seed), full)


def make_world(only: Iterable[str] = (), *, root: Path | None = None, full: bool = False, **told: Any) -> World:
    """Make a world in a folder, else a temporary one, of the stages named, or all."""
    names = list(only) or [name for name, stage in STAGES.items() if full or not stage.full_only]
    root = root or Path(tempfile.mkdtemp(prefix="kat-campaign-"))
    os.environ["KAT_BASE_DIR"] = str(root / "base")
    return World(root, {name: STAGES[name] for name in names}, **told)
