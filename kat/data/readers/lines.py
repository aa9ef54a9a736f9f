"""JSON lines → rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from kat.data.repeated_keys import repeated_key, repeated_key_fault
from kat.data.row import BadRow, Row


def read_lines(lines: Iterable[bytes]) -> Iterator[Row]:
    """Read the rows of a file in JSON lines; blank ones are none, but count."""
    for number, line in enumerate(lines, 1):
        row = parse_line(number, line)
        if row:
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
        value = json.loads(body)  # the fast parser rounds integers of over 64 bits, and an id may be one
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
    except (ValueError, RecursionError):
        return None, "not JSON" if complete else "cut last line"
    return value, None


def _no_constant(name: str) -> None:
    raise BadRow("NaN or Infinity, which is not JSON")
