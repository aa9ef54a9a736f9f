"""How deep a value of JSON may be nested: parsers, writers and walks have limits of their own, each another one.

A column that nobody reads may be as deep as its parser allows; what is written on (messages, tools) has a limit here.
"""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 200
"""Lists and objects inside of each other; the lowest limit, of a writer (orjson), is 254, with kat's own around."""
DEEPEST_ROW = 1000
"""The same, of a row whose deep columns are not read; orjson's own limit is 1,024."""
TOO_DEEP = "JSON nested too deep"
_BRACKETS = "[{"


def nests_too_deep(value: Any, deepest: int = DEEPEST) -> bool:
    """Tell whether a value is nested deeper than so many levels. No recursion."""
    level = [value]
    for _ in range(deepest + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def from_json(text: str) -> Any:
    """Return what a text inside of a row is the JSON of.

    Raises ValueError for one that is none, is nested too deep, or says a lone surrogate.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if sum(map(text.count, _BRACKETS)) > DEEPEST and nests_too_deep(value):
        raise ValueError(TOO_DEEP)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate, which no text of a file can hold
    return value
