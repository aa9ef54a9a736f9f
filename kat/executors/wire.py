"""Messages between processes: a length, a line of JSON, and arrays as .npy bytes. Nothing is pickled."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import orjson

_LENGTHS = struct.Struct("<II")


def send(pipe: IO[bytes], header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write one message. Raises BrokenPipeError if nobody reads any more."""
    parts: list[memoryview] = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        parts.append(buffer.getbuffer())
    head = orjson.dumps(header | {"sizes": [len(p) for p in parts]})
    lengths = _LENGTHS.pack(len(head), sum(map(len, parts)))
    for view in (memoryview(lengths + head), *parts):
        while view:  # an unbuffered pipe may take less than all
            view = view[pipe.write(view) :]
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """Read one message; None at the end of the pipe, in the middle of a message too."""
    lengths = _exactly(pipe, _LENGTHS.size)
    if lengths is None:
        return None
    head, body = (_exactly(pipe, n) for n in _LENGTHS.unpack(lengths))
    if head is None or body is None:
        return None
    header, arrays, start = orjson.loads(head), [], 0
    for size in header.pop("sizes"):
        arrays.append(np.load(io.BytesIO(body[start : start + size]), allow_pickle=False))
        start += size
    return header, arrays


def _exactly(pipe: IO[bytes], count: int) -> bytes | None:
    parts = []
    while count and (part := pipe.read(count)):  # an unbuffered pipe may give less than asked
        parts.append(part)
        count -= len(part)
    return None if count else b"".join(parts)
