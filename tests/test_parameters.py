"""Numbers that are options: what is no number of their range is told in one form, whichever option it is."""

import dataclasses
import math
import re
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest

import kat
from kat.errors import OptionError
from kat.executor_config import ExecutorOptions
from kat.parameters import number

NEEDED = {"rm_source": "rm", "to": "csv", "size": 1}
"""What options without a default are given here."""


def float_options():
    """Return every option of a class of options that is a number with a point, as (class, name)."""
    for module in iter_modules(kat.__path__):
        if not module.name.endswith("config"):
            continue
        for options in vars(import_module(f"kat.{module.name}")).values():
            if dataclasses.is_dataclass(options) and options.__module__ == f"kat.{module.name}":
                for one in dataclasses.fields(options):
                    if re.search(r"\bfloat\b", str(one.type)):
                        yield pytest.param(options, one.name, id=f"{options.__name__}.{one.name}")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1.0, True, "1"], ids=repr)
@pytest.mark.parametrize(("options", "name"), list(float_options()))
def test_a_number_out_of_range_is_refused_by_name(options, name, wrong):
    needed = {one.name: NEEDED[one.name] for one in dataclasses.fields(options) if one.name in NEEDED}
    executor = {"executor": "ray"} if options is ExecutorOptions else {}
    options(**needed, **executor)
    with pytest.raises(OptionError, match=f"^{name} is "):
        options(**needed | executor | {name: wrong})


@pytest.mark.parametrize(
    ("value", "limits", "said"),
    [
        (-0.5, (), "rate is -0.5; expected a number of 0 or more."),
        (math.inf, (), "rate is inf; expected a number of 0 or more."),
        (1.5, (0, 1), "rate is 1.5; expected a number from 0 to 1."),
        (5e-324, (1e-6,), "rate is 5e-324; expected a number of 1e-06 or more."),
        (None, (), "rate is None; expected a number of 0 or more."),
    ],
)
def test_what_was_expected_is_said(value, limits, said):
    with pytest.raises(OptionError) as raised:
        number("rate", value, *limits)
    assert str(raised.value) == said


def test_a_whole_number_beyond_all_floats_is_out_of_range():
    with pytest.raises(OptionError, match=r"^rate is 10+; expected a number of 0 or more"):
        number("rate", 10**400)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_of_any_type_are_taken(value):
    assert number("rate", value, 0, 1) == float(value)
