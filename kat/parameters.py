"""How options are described, converted and checked."""

import difflib
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from cyclopts import App, Parameter, Token

from kat.errors import OptionError
from kat.panels import OUTPUT

P = ParamSpec("P")
R = TypeVar("R")
Options = TypeVar("Options")
SMALLEST = 1e-6
"""Of a number that divides: what lies below cannot be told from 0 in float32, or turns to infinity."""
_DIGITS = 18
"""Of the largest whole number: one that 64 bits hold, as manifests and arrays do."""


def _integer(_: Any, tokens: Sequence[Token]) -> int:
    """Convert a whole number; the library would round 1.5. How small it may be is the option's own rule."""
    word = tokens[0].value
    if not re.fullmatch(r"-?\d+", word):
        raise ValueError("a whole number")
    if len(word) > _DIGITS:
        raise ValueError(f"a whole number of {_DIGITS} digits at most")
    return int(word)


def _integer_or_all(_: Any, tokens: Sequence[Token]) -> int | str:
    word = tokens[0].value
    if word == "all":
        return word
    if not re.fullmatch(r"-?\d+", word):
        raise ValueError('a whole number, or "all"')
    return _integer(_, tokens)


def option(text: str, **more: Any) -> Parameter:
    """Describe an option by its help."""
    return Parameter(help=text, **more)


def flag(text: str, **more: Any) -> Parameter:
    """Describe an option without a value by its help; it is off unless it is typed."""
    return Parameter(help=text, negative="", show_default=False, **more)


def output(text: str) -> Parameter:
    """Describe where something is written by its help."""
    return Parameter(help=text, group=OUTPUT)


def integer(text: str, **more: Any) -> Parameter:
    """Describe an option for whole numbers by its help."""
    return Parameter(help=text, converter=_integer, n_tokens=1, **more)


def integer_or_all(text: str, **more: Any) -> Parameter:
    """Describe an option for a whole number or the word "all" by its help."""
    return Parameter(help=text, metavar="N|all", show_choices=False, converter=_integer_or_all, n_tokens=1, **more)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int. Raises OptionError unless it is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name} is {value!r}; expected a whole number.") from None
    if isinstance(value, bool) or not least <= number < 10**_DIGITS:
        short = f", of {_DIGITS} digits at most" if number >= 10**_DIGITS else ""
        raise OptionError(f"{name} is {value!r}; expected a whole number of {least} or more{short}.")
    return number


def number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """Return `value` as a float. Raises OptionError unless it is a finite number from `low` to `high`."""
    try:
        given = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number beyond all floats
        given = math.inf
    if not low <= given <= high or math.isinf(given):
        limits = f"of {low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise OptionError(f"{name} is {value!r}; expected a number {limits}.")
    return given


def near_name(name: str, names: Iterable[str], before: str = "") -> str:
    """Return " Did you mean model?" for the known name that is nearest to another one, "" if none is near.

    `before` stands before it: the dashes of an option.
    """
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {before}{near[0]}?" if near else ""


def with_options(
    options: Options, given: Mapping[str, Any], function: Callable[..., Any], without: Sequence[str] = ()
) -> Options:
    """Return options (a dataclass) with those fields replaced that a call of `function` gave by keyword.

    Raises OptionError for a name that is neither a field nor a parameter of the function, or one that it does not act
    on: those `without`.
    """
    known = [one.name for one in fields(options) if one.init and one.name not in without]  # type: ignore[arg-type]
    check_keywords(function, list(dict.fromkeys([*keywords_of(function), *known])), given)
    return replace(options, **given)  # type: ignore[type-var]


def check_keywords(function: Callable[..., Any], known: Sequence[str], given: Iterable[str]) -> None:
    """Raise OptionError for a keyword that a function does not have, with the name that is nearest to it."""
    for name in given:
        if name not in known:
            near = near_name(name, known) or f" It takes {', '.join(known)}."
            raise OptionError(f"{function.__name__} has no option {name!r}.{near}")


def explained_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function raise OptionError, and name the near one, where Python says TypeError of a misspelt keyword."""
    known = keywords_of(function)

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        check_keywords(function, known, options)
        return function(*args, **options)

    return call


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that a call can give by keyword."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, one in inspect.signature(function).parameters.items() if one.kind in named]


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise OptionError unless `value` is one of those allowed."""
    if value not in allowed:
        raise OptionError(f"{name} is {value!r}; expected {', '.join(map(str, allowed))}.")


def check_weighting(ess: float, cap: float, temperature: float | None, max_temperature: float) -> None:
    """Raise OptionError for a floor outside (0, 1], a cap under 1, a floor out of the cap's reach, or a wrong T."""
    numbers: Mapping[str, Any] = {"ess": ess, "cap": cap, "max_temperature": max_temperature}
    numbers = {**numbers, "temperature": temperature}
    for name, value in numbers.items():
        if value is not None:
            number(name, value)
    if not 0 < ess <= 1:
        raise OptionError(f"ess is {ess}; expected a share of N above 0 and at most 1.")
    if cap < 1:
        raise OptionError(f"cap is {cap}; weights of mean 1 need a cap of at least 1.")
    if temperature is None and ess < 1 / cap:
        raise OptionError(f"ess is {ess}, but weights of mean 1 under a cap of {cap:g} keep an ESS of {1 / cap:.3g}.")


def options_of(app: App) -> set[str]:
    """Return the names of a command's options, without the dashes before them."""
    return {name.removeprefix("--") for one in app.assemble_argument_collection() for name in one.names}
