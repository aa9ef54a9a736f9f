"""Weightings by a word."""

from dataclasses import replace

import pytest

from kat.errors import OptionError
from kat.pair_config import PairOptions
from kat.pair_weights.specs import flags_of, weightings_of

BASE = PairOptions(seed=3)


def test_words_are_options_of_weigh_pairs():
    found = weightings_of("uniform, density,blend=0.5+smooth,within,within=task, groups=task+sqrt,smooth=topic", BASE)
    assert found == {
        "density": replace(BASE, blend=1.0),
        "blend=0.5+smooth": replace(BASE, blend=0.5, smooth="cluster"),
        "within": replace(BASE, within="src"),
        "within=task": replace(BASE, within="task"),
        "groups=task+sqrt": replace(BASE, groups="task", multiplicity="sqrt"),
        "smooth=topic": replace(BASE, smooth="topic"),
    }
    assert flags_of(found["blend=0.5+smooth"], BASE) == "--blend 0.5 --smooth cluster"
    assert flags_of(found["groups=task+sqrt"], BASE) == "--blend 0.25 --multiplicity sqrt --groups task"
    assert flags_of(found["density"], BASE) == "--blend 1"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("rare", "'rare'; expected uniform, density"),
        ("", "''; expected"),
        ("blend=much", "'much' is no number"),
        ("blend=2", "blend is 2.0"),
        ("groups", "'groups'; expected"),
        ("smooth=", "'smooth='; expected"),
        ("density=1", "'density=1'; expected"),
        ("density,blend=1", "'blend=1' twice"),
        ("smooth=src+within", "smooth and within are both src"),
    ],
)
def test_other_words_are_refused(text, word):
    with pytest.raises(OptionError, match=word):
        weightings_of(text, BASE)
