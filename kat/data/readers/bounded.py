"""Lines of a stream, none longer than a limit: a longer one is passed over piece by piece, and said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

CHUNK = 1 << 20
"""Bytes that are read at once, beside what the limit allows to be held."""


class LongLine(bytes):
    """In the place of a line that is longer than the limit: its line end, or nothing at the end of a file."""


def long_line_fault(limit: int) -> str:
    """Return why a row is bad whose line, record or item is longer than the limit, and what decides."""
    return f"line longer than {limit:,} bytes (--max_line_bytes)"


def bounded_lines(stream: IO[bytes], limit: int, begun: bytes = b"") -> Iterator[bytes]:
    """Yield the lines of a stream with their ends, `begun` being the beginning of the first.

    Of one that is longer than `limit` bytes, its end left out, a `LongLine` is yielded: no more than the limit and a
    chunk is held of it.
    """
    if begun:
        yield _finished(stream, limit, begun)
    most = min(CHUNK, limit + 1)
    while line := stream.readline(most):
        yield line if line[-1] == _END and len(line) <= limit else _finished(stream, limit, line)


_END = ord("\n")


def _finished(stream: IO[bytes], limit: int, begun: bytes) -> bytes:
    """The whole of a line whose beginning was read."""
    line, size, end = bytearray(begun), len(begun), begun[-2:]
    while end[-1:] != b"\n" and (part := stream.readline(CHUNK)):
        size, end = size + len(part), (end + part)[-2:]
        if size <= limit + 2:  # an end of two bytes is no part of the length
            line += part
        else:
            line.clear()
    if size - (len(end) - len(end.rstrip(b"\r\n"))) > limit:
        return LongLine(b"\n" if end[-1:] == b"\n" else b"")
    return bytes(line)
