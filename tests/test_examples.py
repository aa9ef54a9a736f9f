"""The example in the docstring of every public name runs and gives what it says."""

import doctest

import numpy as np
import pytest

import kat

NAMES = sorted(set(kat.__all__) - {"__version__"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What examples read: a file of pairs, and a run of it with pair weights."""
    from kat.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("examples")
        patch.chdir(folder)
        main(["demo-data", "--out", "pairs.jsonl", "--pairs", "300", "--quiet"])
        main(["run", "pairs.jsonl", "--out", "run", "--no-report", "--quiet"])
        main(["weigh-pairs", "run", "--validation-share", "0.2", "--quiet"])
        yield folder


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of(name, folder):
    value = getattr(kat, name)
    [own] = list(doctest.DocTestFinder(recurse=False).find(value, name, globs={"kat": kat, "np": np}))
    assert own.examples, f"kat.{name} has no example"
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(own, out=said.append)
    assert not said, "".join(said)
