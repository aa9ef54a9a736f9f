"""The campaign of races: a command stops at a rename, somebody else comes, and the command goes on.

Somebody else is the same command in another process, or whoever writes the file that is read. In the end the output is
complete, the one of one of them, and never a mixture; or the command says with exit status 2 what happened.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import forks
from tests.faults.calls import STOP, Call, Hook
from tests.faults.campaign import Result, World, contents, in_time

_STOPS = ("replace", "rename", "unlink")
_INPUTS = {"prefixes": "pairs.jsonl", "run": "pairs.jsonl", "evaluate-rm": "scores.jsonl", "score": "pairs.jsonl"}


@dataclass(frozen=True)
class Race:
    """A stage that stops at a call, and who comes then: the same command, or one who rewrites its input."""

    stage: str
    state: str
    call: Call
    rival: str
    number: int = 0


def races(world: World, rng: Random, full: bool) -> Iterator[Result]:
    """Stop every stage at every rename, or at one of each line of kat."""
    chosen = []
    for name in world.stages:
        for state in ("fresh", "over"):
            stops = [call for call in world.expected(name, state).calls if call.kind in _STOPS]
            if not full:
                stops = list({call.site: call for call in rng.sample(stops, len(stops))}.values())
            rivals = ("same command", "input rewritten") if name in _INPUTS else ("same command",)
            chosen += [Race(name, state, call, rival) for call in stops for rival in rivals]
    if world.cases is not None:
        chosen = rng.sample(chosen, min(world.cases, len(chosen)))
    numbered = [Race(**{**vars(race), "number": number}) for number, race in enumerate(chosen)]
    yield from forks.in_forks(lambda race: _result(world, race), in_time(world, numbered), world.jobs)


def _result(world: World, race: Race) -> Result:
    folder = world.fresh(race.stage, race.state, f"race-{race.number:06d}")
    try:
        what = _race(world, race, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    site = f"{race.state}, {race.call.site} {race.call.number}, {race.rival}"
    return Result("races", race.stage, site, not what, what)


def _race(world: World, race: Race, folder: Path) -> str:
    """Stop, let the other one act, go on; say what is not as promised."""
    words = world.command(race.stage, race.state)
    with forks.started(words, folder, Hook(str(folder), race.call, STOP), before=world.breaks) as first:
        if not first.stops():
            return f"it did not stop: {first.end()}"
        source = folder / _INPUTS.get(race.stage, "")
        original = source.read_bytes() if source.is_file() else b""
        if race.rival == "same command":
            second = forks.run(words, folder, before=world.breaks)
        else:
            source.write_bytes(b"".join(original.splitlines(keepends=True)[3:]))
            second = forks.Ran(0, "", "")
        os.kill(first.pid, signal.SIGCONT)
        ended = first.end()
    for ran in (ended, second):
        if ran.rc not in (0, 2) or "Traceback" in ran.stderr:
            return f"exit status {ran.rc}: {ran.stderr.strip()[-300:]}"
    if race.rival != "same command":
        source.write_bytes(original)
    return _left(world, race, folder, (ended, second))


def _left(world: World, race: Race, folder: Path, ran: tuple[forks.Ran, forks.Ran]) -> str:
    """Say what is wrong with what is left, by itself and after the same command again."""
    expected = world.expected(race.stage, race.state)
    if race.rival == "same command" and all(one.rc == 2 for one in ran):
        return f"neither of two wrote: {ran[0].stderr.strip()[-150:]} / {ran[1].stderr.strip()[-150:]}"
    if ran[0].rc == 0 and (difference := expected.difference(contents(folder), expected.after)):
        return f"exit status 0, and {difference}"
    again = forks.run(world.command(race.stage, race.state), folder, before=world.breaks)
    if again.rc != 0:
        return f"the same command again ended with {again.rc}: {again.stderr.strip()[-300:]}"
    difference = expected.difference(contents(folder), expected.after)
    return f"after the same command again, {difference}" if difference else ""
