"""The campaign of kills and failing calls: one fault at one call of one stage, and what is left then.

A killed command leaves each file under its final name old, new or absent. A failing call ends with one message and exit
status 2 and no temporary, or is made good. In every case the same command again ends as if nothing had been.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import forks
from tests.faults.calls import KILLS, SIGNALS, Call, Hook
from tests.faults.campaign import Expected, Files, Result, World, contents, in_time

_REMOVALS = ("unlink", "remove", "rmdir", "list")
_NOTE = re.compile(r"^kat: note: .*$|^\s*$")


@dataclass(frozen=True)
class Case:
    """A fault at a call of a stage, fresh or over an older output."""

    stage: str
    state: str
    call: Call
    fault: str
    number: int

    @property
    def site(self) -> str:
        """Where and what it is, as results say it."""
        return f"{self.state}, {self.call.site} {self.call.number}, {self.fault}"

    @property
    def row(self) -> str:
        """The row of the table that this counts in."""
        if self.fault in KILLS:
            return "kills"
        if self.fault in SIGNALS:
            return "signals"
        return "fsync" if self.call.kind == "fsync" else self.fault


def disturbed(world: World, rng: Random, full: bool) -> Iterator[Result]:
    """Disturb every stage at every call, or at one call of each site."""
    cases = [
        case
        for name in world.stages
        for state in ("fresh", "over")
        for case in _cases(name, state, world.expected(name, state).calls, rng, full)
    ]
    cases = [case for case in cases if world.site in case.site]
    if world.cases is not None:
        cases = _spread(cases, rng)[: world.cases]
    numbered = [Case(**{**vars(case), "number": number}) for number, case in enumerate(cases)]
    yield from forks.in_forks(lambda case: _result(world, case), in_time(world, numbered), world.jobs)


def _cases(name: str, state: str, calls: Iterable[Call], rng: Random, full: bool) -> Iterator[Case]:
    sites: dict[str, list[Call]] = {}
    for call in calls:
        sites.setdefault(call.site, []).append(call)
    for site_calls in sites.values():
        faults = list(site_calls[0].faults)
        if not full:  # they end alike: one signal at every second site
            faults = [one for one in faults if one not in SIGNALS] + rng.sample(SIGNALS, rng.randrange(2))
        for fault in faults:
            for call in site_calls if full else [rng.choice(site_calls)]:
                yield Case(name, state, call, fault, 0)


def _spread(cases: list[Case], rng: Random) -> list[Case]:
    """Put cases into an order in which every fault at every line of kat comes once before any comes twice."""
    seen: Counter[tuple[str, str]] = Counter()
    ranks = []
    for case in rng.sample(cases, len(cases)):
        ranks.append((seen[case.call.site, case.fault], case))
        seen[case.call.site, case.fault] += 1
    return [case for _, case in sorted(ranks, key=lambda one: one[0])]


def _result(world: World, case: Case) -> Result:
    folder = world.fresh(case.stage, case.state, f"{case.number:06d}"[-6:])
    try:
        what = _disturb(world, case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(case.row, case.stage, case.site, not what, what)


def _disturb(world: World, case: Case, folder: Path) -> str:
    """Run the command with its fault, then again without; say what is not as promised."""
    expected, words = world.expected(case.stage, case.state), world.command(case.stage, case.state)
    ran = forks.run(words, folder, Hook(str(folder), case.call, case.fault), before=world.breaks)
    if not ran.happened:
        return "the fault did not happen: the stage made other calls"
    left = contents(folder)
    said = _killed(ran) if case.fault in KILLS else _failed(case, ran, expected, left)
    said = said or _mixture(world, case, folder, expected, left)
    if said:
        return said
    again = forks.run(words, folder, before=world.breaks)
    if again.rc != 0:
        return f"the same command again ended with {again.rc}: {again.stderr.strip()[-300:]}"
    difference = expected.difference(contents(folder), expected.after)
    return f"after the same command again, {difference}" if difference else ""


def _killed(ran: forks.Ran) -> str:
    return "" if ran.rc == -signal.SIGKILL else f"it was to be killed, and ended with {ran.rc}"


def _failed(case: Case, ran: forks.Ran, expected: Expected, left: Files) -> str:
    """Say what is wrong with how a command ended in which a call failed."""
    if ran.rc == forks.HANGS:
        return "it hangs"
    if "Traceback" in ran.stdout + ran.stderr:
        return f"a traceback, exit status {ran.rc}: {ran.stderr.strip()[-300:]}"
    if case.fault in SIGNALS and ran.rc != 0:
        return _stopped(case, ran, left)
    if ran.rc == 0:
        difference = expected.difference(_without_strays(case, left), expected.after)
        return f"exit status 0, and {difference}" if difference else ""
    messages = [line for line in ran.stderr.splitlines() if not _NOTE.match(line)]
    if ran.rc != 2:
        return f"exit status {ran.rc}: {ran.stderr.strip()[-300:]}"
    if len([line for line in messages if line.startswith("kat: ")]) != 1:
        return f"not one message: {ran.stderr.strip()[-300:]}"
    if not re.search(r"\b(new|run|reward|tiny|pairs\.jsonl|scores\.jsonl)\b", "\n".join(messages)):
        return f"the message names no file: {ran.stderr.strip()[-300:]}"
    strays = [name for name in left if ".kat-tmp-" in name]  # the note of a move that stopped stays until it ends
    return f"{strays[0]} is left" if strays and case.call.kind not in _REMOVALS else ""


def _stopped(case: Case, ran: forks.Ran, left: Files) -> str:
    """Say what is wrong with how a signal ended a command."""
    if ran.rc != 128 + getattr(signal, case.fault):
        return f"exit status {ran.rc}: {ran.stderr.strip()[-300:]}"
    if len([line for line in ran.stderr.splitlines() if line.startswith("kat: interrupted")]) != 1:
        return f"not one message: {ran.stderr.strip()[-300:]}"
    strays = [name for name in left if ".kat-tmp-" in name or ".kat-lock-" in name]
    return f"{strays[0]} is left" if strays else ""


def _without_strays(case: Case, left: Files) -> Files:
    """Leave out temporaries, and work that is done, where it is their removal that failed: the next command's then."""
    strays = (".kat-", ".unfinished/") if case.call.kind in _REMOVALS else ()
    return {one: data for one, data in left.items() if not any(stray in one for stray in strays)}


def _mixture(world: World, case: Case, folder: Path, expected: Expected, left: Files) -> str:
    """Say which file is neither old nor new, and whether `kat verify` calls a mixture complete."""
    final = {name: data for name, data in left.items() if ".kat-" not in name and ".unfinished" not in name}
    for name, data in final.items():
        if not any(expected.is_one(name, data, of) for of in (expected.before, expected.after)):
            return f"{name} is neither the old one nor the new one, exit or kill"
    output = world.stages[case.stage].output
    verified = forks.run(["verify", output], folder)
    if verified.rc not in (0, 1, 2) or "Traceback" in verified.stderr:
        return f"kat verify ended with {verified.rc}: {verified.stderr.strip()[-300:]}"
    states = [expected.difference(final, of) for of in (expected.before, expected.after)]
    return f"kat verify says whole of a mixture: {states[1]}" if verified.rc == 0 and all(states) else ""
