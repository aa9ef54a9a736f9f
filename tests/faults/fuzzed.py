"""The campaigns of fuzzed files, data and artefacts, shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from tests.faults import forks
from tests.faults.campaign import Result, World, in_time

_PART = 250
_DATA = (30_000, 100_000)
_ARTEFACTS = (4_000, 20_000)
"""Cases of a sample, and of a full campaign."""


def fuzzed_data(world: World, rng: Random, full: bool) -> Iterator[Result]:
    """Read odd and damaged files of data."""
    yield from _fuzzed("fuzz: data", _data, world, _DATA[full])


def fuzzed_artefacts(world: World, rng: Random, full: bool) -> Iterator[Result]:
    """Read damaged models, runs and checkpoints."""
    yield from _fuzzed("fuzz: artefacts", _artefacts, world, _ARTEFACTS[full])


def _fuzzed(kind: str, fuzz: Callable[[int, int], list[str]], world: World, cases: int) -> Iterator[Result]:
    cases = min(cases, world.cases or cases)
    parts = [(first, min(_PART, cases - first)) for first in range(0, cases, _PART)]
    done = forks.in_forks(lambda part: (part[1], fuzz(*part)), in_time(world, parts), world.jobs)
    for count, failures in done:
        yield from (Result(kind, "", one, ok=False, what=one) for one in failures)
        yield from (Result(kind, "", "", ok=True) for _ in range(count - len(failures)))


def _data(first: int, count: int) -> list[str]:
    from faults.fuzz_data import fuzz

    return list(map(str, fuzz(count, first)))


def _artefacts(first: int, count: int) -> list[str]:
    from faults.fuzz_artefacts import fuzz

    return list(map(str, fuzz(count, 0, first=first)))
