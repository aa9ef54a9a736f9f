"""One JSON array → rows, its items: on one line, one a line, or each over several lines. Streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

import orjson

from kat.data.readers.bounded import CHUNK, long_line_fault
from kat.data.readers.lines import parse_line
from kat.data.row import Row

_CHUNK, _LARGEST_CHUNK = CHUNK, 1 << 23
"""Bytes that are read at once: ever more while one item goes on, up to this."""
_BEGINS = re.compile(rb"\s*\[\s*(\{|$|\]\s*$)")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NEXT = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+[\[\]{},]", re.DOTALL)
_NEXT_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]", re.DOTALL)
"""Up to the next bracket (or comma) that is not inside of a string; inside of an item commas say nothing."""
_STRINGS = re.compile(rb'(?:[^"]++|' + _STRING + rb")*+", re.DOTALL)
"""Whole strings and what stands between them."""
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


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


def read_array(head: bytes, stream: IO[bytes], limit: int, before: int = 0) -> Iterator[Row]:
    """Read the items of an array as rows: `number` is the item's, `line` where it begins, after `before` lines.

    `head` was read of the stream already. An item is a row, and has the limit of a line: no more of it is held.
    An array that is cut off, or followed by something, ends with a bad row that says so.
    """
    number = 0
    for item, line, fault in _Items(head, stream, limit, before + 1):
        if fault:
            number += 1
            yield Row(number, item.strip(), None, fault, line=line)
        elif row := parse_line(number + 1, item.strip() + b"\n"):
            number += 1
            yield replace(row, line=line)


class _Items:
    """Each item's bytes, the line that it begins on, and what is wrong with the array there, if anything is.

    `_start` is where the item begins in the buffer, `_scan` how far was looked: nothing is looked at twice, however
    long a string is. Of an item over the limit nothing is kept but where it began.
    """

    def __init__(self, head: bytes, stream: IO[bytes], limit: int, line: int) -> None:
        self._buffer, self._stream, self._limit = bytearray(head), stream, limit
        self._start, self._scan, self._depth, self._line = 0, 0, 0, line
        self._in_string, self._ended = False, False
        self._began: int | None = None  # the line of an item that is not kept

    def __iter__(self) -> Iterator[tuple[bytes, int, str | None]]:
        while (token := self._next()) is not None:
            if token in b"[{":
                self._depth += 1
                if self._depth == 1:
                    self._pass_to(self._scan)
            elif token in b"]}":
                self._depth -= 1
            if (token == b"," and self._depth == 1) or self._depth == 0:
                yield self._item(self._scan - 1)
                self._pass_to(self._scan)
                if self._depth == 0:
                    break
        yield from self._rest()

    def _next(self) -> bytes | None:
        """The next bracket, or comma between items, that is in no string; None at the end."""
        while True:
            if not self._in_string:
                pattern = _NEXT if self._depth == 1 else _NEXT_BRACKET
                if bracket := pattern.match(self._buffer, self._scan):
                    self._scan = bracket.end()
                    return bytes(self._buffer[self._scan - 1 : self._scan])
                # What is left has no bracket: whole strings, and perhaps the beginning of one.
                self._scan = _STRINGS.match(self._buffer, self._scan).end()  # type: ignore[union-attr]
                if self._buffer[self._scan : self._scan + 1] == b'"':
                    self._scan, self._in_string = self._scan + 1, True
            if self._in_string:
                self._scan = _IN_STRING.match(self._buffer, self._scan).end()  # type: ignore[union-attr]
                if self._buffer[self._scan : self._scan + 1] == b'"':
                    self._scan, self._in_string = self._scan + 1, False
                    continue
            if not self._more():
                return None

    def _more(self) -> bool:
        """Read on, after what is done with is let go. False at the end."""
        if self._scan - self._start > self._limit or self._began is not None:
            if self._began is None:
                self._began = self._line + _blank_lines(self._buffer[self._start : self._scan])
            self._pass_to(self._scan)
        del self._buffer[: self._start]
        self._scan, self._start = self._scan - self._start, 0
        size = min(max(_CHUNK, len(self._buffer)), _LARGEST_CHUNK)
        chunk = b"" if self._ended else self._stream.read(size)
        self._ended = not chunk
        self._buffer += chunk
        return not self._ended

    def _pass_to(self, end: int) -> None:
        """Leave behind what stands before `end`."""
        self._line += self._buffer.count(b"\n", self._start, end)
        self._start = end

    def _item(self, end: int) -> tuple[bytes, int, str | None]:
        item = bytes(memoryview(self._buffer)[self._start : end])
        line = self._line + _blank_lines(item) if self._began is None else self._began
        if self._began is not None or len(item) > self._limit:
            self._began = None
            return b"", line, long_line_fault(self._limit)
        return item, line, None

    def _rest(self) -> Iterator[tuple[bytes, int, str | None]]:
        """What is wrong with the end of the array: it is cut, or something follows."""
        if self._depth > 0:
            item, line, fault = self._item(len(self._buffer))
            yield item, line, fault or "cut: the array is not closed"
            return
        while not (text := self._buffer[self._start :].strip()):
            self._scan = len(self._buffer)
            self._pass_to(self._scan)
            if not self._more():
                return
        line = self._line + _blank_lines(self._buffer[self._start :])
        while self._more():
            if len(text) > self._limit:
                break
            text = self._buffer[self._start :]
        yield bytes(text) if len(text) <= self._limit else b"", line, "text after the end of the array"


def _blank_lines(item: bytes | bytearray) -> int:
    """The line ends before an item's first character."""
    return item.count(b"\n", 0, len(item) - len(item.lstrip()))
