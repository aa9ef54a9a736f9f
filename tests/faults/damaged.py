"""The campaign of damages: every file and manifest of a run is harmed, and `kat verify` and the next stage are asked.

What no manifest vouches for, such as the pairs themselves, is not of a run any more when it changed, which verify says
too. A stage may be made of what is harmed if it reads none of it: then it ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import forks
from tests.faults.campaign import Result, World, contents, in_time


def _flip(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


_HARMS: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "a bit flipped": _flip,
    "cut": lambda data, rng: data[: rng.randrange(len(data))],
    "emptied": lambda data, rng: b"",
    "a byte more": lambda data, rng: data + bytes([rng.randrange(256)]),
    "two bytes swapped": lambda data, rng: _swapped(data, rng),
    "deleted": lambda data, rng: None,
}
_FLIPS = 8
"""Bits that are flipped in a file of a full campaign."""


def _swapped(data: bytes, rng: Random) -> bytes:
    places = [i for i in range(len(data) - 1) if data[i] != data[i + 1]]
    if not places:
        return data + b"\n"
    i = rng.choice(places)
    return data[:i] + bytes([data[i + 1], data[i]]) + data[i + 2 :]


@dataclass(frozen=True)
class Damage:
    """A file that is harmed, how, and the stage that is run then; "" for `kat verify`."""

    output: str
    file: str
    harm: str
    stage: str
    number: int


def damaged(world: World, rng: Random, full: bool) -> Iterator[Result]:
    """Harm every file of every output, and what stages read; a few stages of each, or all."""
    chosen: list[tuple[str, str, str, str]] = []
    for name in world.stages:
        output = world.stages[name].output
        before, after = world.expected(name, "fresh").before, world.expected(name, "fresh").after
        files = sorted(set(after) - set(before)) if output else []
        chosen += [(name, file, harm, "") for file in files for harm in _some(rng, full)]
    inputs = sorted(contents(world.inputs))
    for file in inputs:
        if file.startswith(("run/", "pairs.jsonl", "tiny/")):
            chosen += [("", file, harm, "") for harm in _some(rng, full)]
        if file.startswith(("run/", "reward/")):
            stages = list(world.stages) if full else rng.sample(list(world.stages), min(3, len(world.stages)))
            harms = [one for one in _HARMS if full or one in ("a bit flipped", "two bytes swapped", "deleted")]
            chosen += [("", file, harm, stage) for stage in stages for harm in harms]
    if full:
        chosen += [one for one in chosen if one[2] == "a bit flipped" for _ in range(_FLIPS - 1)]
    if world.cases is not None:
        chosen = rng.sample(chosen, min(world.cases, len(chosen)))
    cases = [Damage(*one, number) for number, one in enumerate(chosen)]
    yield from forks.in_forks(lambda case: _result(world, case), in_time(world, cases), world.jobs)


def _some(rng: Random, full: bool) -> list[str]:
    """The harms that are done to a file: all, or some."""
    return list(_HARMS) if full else rng.sample(list(_HARMS), 3)


def _result(world: World, case: Damage) -> Result:
    folder = world.fresh(case.output, "fresh", f"damage-{case.number:06d}")
    try:
        what = _harm(world, case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    row = "damage: the next stage" if case.stage else "damage: verify"
    return Result(row, case.stage or case.output or "run", f"{case.file}, {case.harm}", not what, what)


def _harm(world: World, case: Damage, folder: Path) -> str:
    """Harm the file, ask, and say what was taken without a word."""
    if case.output and (made := forks.run(world.command(case.output, "fresh"), folder)).rc != 0:
        return f"it was not made: {made.stderr.strip()[-300:]}"
    path, rng = folder / case.file, Random(case.number)
    data = path.read_bytes()
    harmed = _HARMS[case.harm](data, rng) if data or case.harm in ("a byte more", "deleted") else b"x"
    path.unlink()  # it may share its bytes with another: harm one
    if harmed is not None:
        path.write_bytes(harmed)
    if harmed == data:
        return ""
    if case.stage:
        return _next_stage(world, case, folder)
    ran = forks.run(["verify", world.stages[case.output].output if case.output else "run"], folder)
    if "Traceback" in ran.stderr or ran.rc not in (0, 1, 2):
        return f"kat verify ended with {ran.rc}: {ran.stderr.strip()[-300:]}"
    if ran.rc == 0 and not (case.harm == "deleted" and _is_said(case.file, ran.stdout)):
        return "kat verify says whole"
    return ""


def _is_said(file: str, said: str) -> bool:
    """Whether verify says that a file is gone: an input, bad rows, or the manifest of what nothing vouches for now."""
    name = Path(file).name
    if any(name in line and "not there" in line for line in said.splitlines()):
        return True
    return file.startswith("tiny/") and "not there" in said


def _next_stage(world: World, case: Damage, folder: Path) -> str:
    ran = forks.run(world.command(case.stage, "fresh"), folder)
    if ran.rc == 2 and "Traceback" not in ran.stderr:
        return ""
    said = "has no manifest: it is taken as it is" in ran.stdout or _is_said(case.file, ran.stdout)
    if ran.rc == 0 and case.harm == "deleted" and said:
        return ""  # as what comes from elsewhere, which has no manifest and names no prompts
    if ran.rc != 0:
        return f"exit status {ran.rc}: {ran.stderr.strip()[-300:]}"
    expected, left = world.expected(case.stage, "fresh"), contents(folder)
    written = {name: data for name, data in left.items() if name.startswith("new/")}
    undisturbed = {name: data for name, data in expected.after.items() if name.startswith("new/")}
    difference = expected.difference(written, undisturbed)
    return f"it was read without a word: {difference}" if difference else ""
