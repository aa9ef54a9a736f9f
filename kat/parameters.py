"""How options of the command line are described and converted."""

import re
from collections.abc import Sequence
from typing import Any

from cyclopts import Parameter, Token


def _integer(_: Any, tokens: Sequence[Token]) -> int:
    """Convert a whole number from 0 up; the library would round 1.5."""
    word = tokens[0].value
    if not re.fullmatch(r"\d+", word):
        raise ValueError(f"{word!r} is no whole number from 0 up")
    return int(word)


def _integer_or_all(_: Any, tokens: Sequence[Token]) -> int | str:
    return "all" if tokens[0].value == "all" else _integer(_, tokens)


def option(text: str, **more: Any) -> Parameter:
    """Describe an option by its help."""
    return Parameter(help=text, **more)


def integer(text: str, **more: Any) -> Parameter:
    """Describe an option for whole numbers by its help."""
    return Parameter(help=text, converter=_integer, n_tokens=1, **more)


def integer_or_all(text: str) -> Parameter:
    """Describe an option for a whole number or the word "all" by its help."""
    return Parameter(help=text, metavar="N|all", show_choices=False, converter=_integer_or_all, n_tokens=1)
