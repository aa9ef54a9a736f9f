"""A small sample of the campaign, in a process of its own, for a fork holds one thread; and that the campaign can fail.

`make campaign` runs the rest.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

SHORT = """
import sys
from pathlib import Path
from tests.faults import forks
forks.alone()
from tests.faults.__main__ import arguments, report
from tests.faults.campaign import make_world
from tests.faults.disturbed import disturbed

def broken():
    {broken}

told = arguments([])
world = make_world({stages!r}, root=Path({root!r}), jobs=2, cases={cases}, breaks=broken)
world.begin()
sys.exit(report(world, told, [disturbed], False))
"""

DIRECTLY = """
    import contextlib
    from kat import atomic, outputs

    usual = atomic.temporary_file

    @contextlib.contextmanager
    def directly(path):
        if path.name != "p.jsonl":
            with usual(path) as opened:
                yield opened
            return
        with path.open("wb", buffering=0) as file:
            yield atomic.Opened(path, path, file)

    atomic.temporary_file = outputs.temporary_file = directly
"""
CARELESSLY = """
    from kat.cli import runner
    runner._fail = lambda lines, status, voice: sys.exit(status)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the world is, which the first campaign makes for all."""
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture
def campaign(python, root):
    def run(stages, cases, broken="pass"):
        code = SHORT.format(stages=stages, root=str(root), cases=cases, broken=broken.strip())
        return python("-c", code, cwd=ROOT)

    return run


def test_a_sample_is_as_promised(campaign):
    ran = campaign(["prefixes", "density", "sample", "weigh-pairs"], 24)
    assert ran.rc == 0, ran.stdout + ran.stderr
    assert "kills" in ran.stdout


@pytest.mark.parametrize(
    ("broken", "said"),
    [(DIRECTLY, "neither the old one nor the new one"), (CARELESSLY, "not one message")],
    ids=["under its final name", "without a message"],
)
def test_what_is_broken_is_reported(campaign, broken, said):
    ran = campaign(["prefixes"], 60, broken)
    assert ran.rc == 1, ran.stdout + ran.stderr
    assert said in ran.stdout, ran.stdout
