"""Keys that stand twice in one object of JSON: every parser keeps one of their values, and says nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from kat.data.row import BadRow

_TOKEN = re.compile(rb'[{}]|"((?:[^"\\]++|\\.)*+)"([ \t\r\n]*+:)?', re.DOTALL)
_LONGEST = 60


def repeated_key(text: bytes, value: Any) -> str | None:
    """Return a key that stands twice in one object of a valid JSON text, None if there is none.

    `value` is what was parsed from it.
    """
    return _find(text) if _may_repeat(text, value) else None


def refuse_repeated_key(text: bytes, value: Any, where: str = "") -> None:
    """Raise BadRow for a valid JSON text, inside of the column `where`, in which a key stands twice in one object."""
    if (key := repeated_key(text, value)) is not None:
        raise BadRow(repeated_key_fault(key, where))


def repeated_key_fault(key: str, where: str = "") -> str:
    """Return why a row with a repeated key is bad, and what to do."""
    shown = ascii(key if len(key) <= _LONGEST else key[:_LONGEST] + "...")  # no control character reaches a terminal
    place = f"{where}: " if where else ""
    return f"{place}the key {shown} stands twice in one object: keep one value of it, rename or remove the other"


def _may_repeat(text: bytes, value: Any) -> bool:
    """Whether a key may stand twice: never false where one does, and true of no other text but one with \\u0022.

    A quote in a text of JSON opens or closes a string, or is \\" inside of one, and orjson writes the same. What a
    repeated key lost is not in the value, and its own two quotes with it: then the text has more quotes than the value
    written again. Quotes that a text writes as \\u0022 would make up for them.
    """
    try:
        return text.count(b'"') != orjson.dumps(value).count(b'"') or b"\\u0022" in text
    except TypeError:  # integers of over 64 bits, or nested too deep: orjson does not write these
        return True


def _find(text: bytes) -> str | None:
    """The first repeated key, by a walk over all strings and braces; no recursion, however deep the text is nested."""
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token[2]:
            key: str = json.loads(b'"' + token[1] + b'"')
            if key in objects[-1]:
                return key
            objects[-1].add(key)
        elif token[0] == b"{":
            objects.append(set())
        elif token[0] == b"}":
            objects.pop()
    return None
