"""The campaign of full disks: every stage writes to a file system of a few kilobytes, and of more, until it passes.

The file system is a tmpfs, which root can mount; where that is not allowed the campaign says so and has no cases.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import forks
from tests.faults.campaign import Result, World, contents, in_time

_ENOUGH = 64 * 1024
_MESSAGE = re.compile(r"^kat: (?!note: )", re.M)


@dataclass(frozen=True)
class Disk:
    """A stage and the kilobytes that it may write."""

    stage: str
    kilobytes: int


def full_disk(world: World, rng: Random, full: bool) -> Iterator[Result]:
    """Give every stage disks that grow, by a half in every step, or by twice."""
    if not _can_mount():
        print("full disks: skipped, for nothing can be mounted here", file=sys.stderr)
        return
    sizes, step = [4], 1.25 if full else 2
    while sizes[-1] < _ENOUGH // 16:
        sizes.append(max(sizes[-1] + 4, int(sizes[-1] * step) // 4 * 4))
    disks = [Disk(name, size) for name in world.stages for size in sizes if world.expected(name, "fresh")]
    if world.cases is not None:
        disks = rng.sample(disks, min(world.cases, len(disks)))
    yield from forks.in_forks(lambda disk: _result(world, disk), in_time(world, disks), world.jobs)


def _can_mount() -> bool:
    try:
        with tempfile.TemporaryDirectory() as folder, _mounted(Path(folder), 4):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def _mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def _result(world: World, disk: Disk) -> Result:
    folder = world.fresh(disk.stage, "fresh", f"disk-{disk.stage}-{disk.kilobytes}")
    (folder / "new").mkdir()
    try:
        with _mounted(folder / "new", disk.kilobytes):
            what = _write(world, disk, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result("full disks", disk.stage, f"{disk.kilobytes} KB", not what, what)


def _write(world: World, disk: Disk, folder: Path) -> str:
    """Run a stage on a small disk, then on a large one; say what is not as promised."""
    expected, words = world.expected(disk.stage, "fresh"), world.command(disk.stage, "fresh")
    ran = forks.run(words, folder, before=world.breaks)
    left = contents(folder)
    if ran.rc == 0:
        return expected.difference(left, expected.after)
    if ran.rc != 2 or "Traceback" in ran.stderr or len(_MESSAGE.findall(ran.stderr)) != 1:
        return f"exit status {ran.rc}: {ran.stderr.strip()[-300:]}"
    parts = world.stages[disk.stage].output + "/"  # what a run completed before stays
    stays = (parts, ".unfinished") if disk.stage in ("run", "density") else (".unfinished",)
    if strays := [one for one in left if one.startswith("new/") and not any(part in one for part in stays)]:
        return f"{strays[0]} is left"
    subprocess.run(["mount", "-o", f"remount,size={_ENOUGH}k", str(folder / "new")], check=True, capture_output=True)
    again = forks.run(words, folder, before=world.breaks)
    if again.rc != 0:
        return f"the same command again ended with {again.rc}: {again.stderr.strip()[-300:]}"
    difference = expected.difference(contents(folder), expected.after)
    return f"with room, {difference}" if difference else ""
