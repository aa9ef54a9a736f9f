"""JSON lines → rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from kat.data.nesting import DEEPEST_ROW, TOO_DEEP, nests_too_deep
from kat.data.readers.bounded import LongLine, long_line_fault
from kat.data.repeated_keys import repeated_key, repeated_key_fault
from kat.data.row import BadRow, Row


def read_lines(lines: Iterable[bytes], limit: int, before: int = 0) -> Iterator[Row]:
    """Read the rows of a file in JSON lines, `before` the number of lines that stand before; blank ones count too."""
    for number, line in enumerate(lines, before + 1):
        if isinstance(line, LongLine):
            yield Row(number, b"", None, long_line_fault(limit))
        elif row := parse_line(number, line):
            yield row


def parse_line(number: int, line: bytes) -> Row | None:
    """Return one line of JSON as a row; None for a blank line."""
    body = line.rstrip(b"\r\n")
    if not body or body.isspace():  # unlike strip(), no copy
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value, fault = _second_opinion(body, complete=line.endswith(b"\n"))
        if fault:
            return Row(number, body, None, fault)
    if not isinstance(value, dict):
        return Row(number, body, None, "not a JSON object")
    if (key := repeated_key(body, value)) is not None:
        return Row(number, body, None, repeated_key_fault(key))
    if isinstance(value.get("id"), float):
        try:
            value = json.loads(body)  # the fast parser rounds integers of over 64 bits, and an id may be one
        except ValueError:  # Python reads no whole number of some thousand digits
            return Row(number, body, None, "a number with too many digits")
    return Row(number, body, value)


def _second_opinion(body: bytes, *, complete: bool) -> tuple[Any, str | None]:
    """What the strict parser disliked, in words."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        return None, "invalid UTF-8"
    except UnicodeEncodeError:
        return None, "lone surrogate"
    except BadRow as bad:
        return None, bad.reason
    except RecursionError:
        return None, TOO_DEEP
    except ValueError:
        return None, "not JSON" if complete else "cut last line"
    return (None, TOO_DEEP) if nests_too_deep(value, DEEPEST_ROW) else (value, None)


def _no_constant(name: str) -> None:
    raise BadRow("NaN or Infinity, which is not JSON")
