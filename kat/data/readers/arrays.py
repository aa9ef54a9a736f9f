"""One JSON array → rows, its items: on one line, one a line, or each over several lines. Streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

import orjson

from kat.data.readers.lines import parse_line
from kat.data.row import Row

_CHUNK = 1 << 20
_BEGINS = re.compile(rb"\s*\[\s*(\{|$|\]\s*$)")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NEXT = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+[\[\]{},]", re.DOTALL)
_NEXT_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]", re.DOTALL)
"""Up to the next bracket (or comma) that is not inside of a string; inside of an item commas say nothing."""


def is_array(first: bytes, second: bytes) -> bool:
    """Tell an array from JSON lines by the first two lines that are not blank (`second` is b"" if there is none)."""
    if not _BEGINS.match(first):
        return False
    if not second:
        return True
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return True
    return False  # a line that is complete, with another after it: JSON lines, of which this is a bad one


def read_array(head: bytes, stream: IO[bytes]) -> Iterator[Row]:
    """Read the items of an array as rows: `number` is the item's, `line` where it begins.

    `head` was read of the stream already.

    An array that is cut off, or followed by something, ends with a bad row that says so.
    """
    number = 0
    for item, line, fault in _items(head, stream):
        if fault:
            number += 1
            yield Row(number, item.strip(), None, fault, line=line)
        elif row := parse_line(number + 1, item.strip() + b"\n"):
            number += 1
            yield replace(row, line=line)


def _items(buffer: bytes, stream: IO[bytes]) -> Iterator[tuple[bytes, int, str | None]]:
    """Each item's bytes, the line that it begins on, and what is wrong with the array there, if anything is."""
    start, scan, depth, line = 0, 0, 0, 1
    ended = False
    while True:
        bracket = (_NEXT if depth == 1 else _NEXT_BRACKET).match(buffer, scan)
        if bracket is None:  # the chunk ends first
            if ended:
                break
            chunk = stream.read(_CHUNK)
            ended = not chunk
            buffer, scan, start = buffer[start:] + chunk, scan - start, 0
            continue
        scan = bracket.end()
        token = buffer[scan - 1 : scan]
        if token in b"[{":
            depth += 1
            if depth == 1:
                line += buffer.count(b"\n", start, scan)
                start = scan
        elif token in b"]}":
            depth -= 1
        if (token == b"," and depth == 1) or depth == 0:
            item = buffer[start : scan - 1]
            yield item, line + _blank_lines(item), None
            line += buffer.count(b"\n", start, scan)
            start = scan
            if depth == 0:
                break
    rest = buffer[start:] + (b"" if ended else stream.read())
    if depth > 0:
        yield rest, line + _blank_lines(rest), "cut: the array is not closed"
    elif rest.strip():
        yield rest, line + _blank_lines(rest), "text after the end of the array"


def _blank_lines(item: bytes) -> int:
    """The line ends before an item's first character."""
    return item.count(b"\n", 0, len(item) - len(item.lstrip()))
