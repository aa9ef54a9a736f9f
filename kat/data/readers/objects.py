"""Objects of Python, NumPy and pandas → rows, by way of the JSON that a file of them would hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from kat.data.media import MEDIA, is_file
from kat.data.nesting import TOO_DEEP
from kat.data.readers.bounded import long_line_fault
from kat.data.readers.lines import parse_line
from kat.data.readers.tables import Needed
from kat.data.readers.values import plain
from kat.data.row import BadRow, Row
from kat.terminal import escaped

_MISSING = ("NaTType", "NAType")
"""Types of pandas' missing values, which are equal to nothing."""


class _Binary(Exception):
    """A value inside of which there are bytes; `media` says that they are a picture or sound."""

    def __init__(self, media: bool) -> None:
        super().__init__(media)
        self.media = media


def table_row(row: Row, use: Needed, limit: int) -> Row:
    """Return a row of a table as the line of JSON would be read that it is written as: nearly all are that already."""
    value = row.value or {}
    odd = b"NaN" in row.raw or b"Infinity" in row.raw or any(isinstance(each, bytes) for each in value.values())
    if not odd and len(row.raw) <= limit:
        return row
    again = object_row(row.number, value, use, limit)
    return replace(again, skipped=(*row.skipped, *again.skipped), media=(*row.media, *again.media))


def object_row(number: int, item: Mapping[Any, Any], use: Needed, limit: int) -> Row:
    """Return one row of a caller's, read from its JSON. `use` says which columns are needed, `limit` the most bytes."""
    value: dict[str, Any] = {}
    fault = None
    skipped, media = [], []
    for key, held in item.items():
        name, value[str(key)] = str(key), None
        try:
            value[name] = _as_json(held.decode() if isinstance(held, bytes) else held)
        except UnicodeDecodeError:
            fault = fault or ("invalid UTF-8" if use(name) else None)
        except _Binary as binary:
            skipped.append(name)
            media += [name] if binary.media else []
            del value[name]
        except (BadRow, RecursionError) as error:
            fault = fault or (error.reason if isinstance(error, BadRow) else TOO_DEEP)
        except (TypeError, ValueError):
            kind = article(type(held).__name__)
            fault = fault or (f"column {escaped(name)} holds {kind}, which JSON has nothing for" if use(name) else None)
    row = Row(number, b"", None, fault) if fault else _parsed(number, value, limit)
    return replace(row, skipped=tuple(skipped), media=tuple(media)) if skipped else row


def _parsed(number: int, value: dict[str, Any], limit: int) -> Row:
    try:
        line = orjson.dumps(value)
    except TypeError:  # whole numbers of over 64 bits, lone surrogates, deep nesting: JSON has words for each
        try:
            line = json.dumps(value).encode()
        except RecursionError:
            return Row(number, b"", None, TOO_DEEP)
    if len(line) > limit:
        return Row(number, b"", None, long_line_fault(limit))
    row = parse_line(number, line + b"\n")
    assert row is not None
    return row


def _as_json(value: Any) -> Any:
    """A value in JSON's types, None for one that is missing. Raises BadRow, `_Binary`, or TypeError for others."""
    if isinstance(value, str | bool | int):
        return value
    if is_missing(value):
        return None
    if isinstance(value, float):
        if value in (float("inf"), float("-inf")):
            raise BadRow("NaN or Infinity, which is not JSON")
        return float(value)
    if isinstance(value, Mapping):
        if any(isinstance(each, bytes) for each in value.values()):
            raise _Binary(is_file(value) or not MEDIA.keys().isdisjoint(value))
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    root = type(value).__module__.partition(".")[0]
    if isinstance(value, bytes | bytearray | memoryview) or root == "PIL":
        raise _Binary(root == "PIL")
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # an array, a tensor, or a number of one
        return _as_json(_times(value) if getattr(value.dtype, "kind", "") in "mM" else value.tolist())
    held = plain(value)
    return _as_json(held) if isinstance(held, float) else held


def _times(value: Any) -> Any:
    """Times of NumPy as ISO text, which some units would turn into numbers."""
    texts = value.astype(str).tolist()
    texts = [texts] if isinstance(texts, str) else texts
    told = [None if text in ("NaT", "nat") else text for text in texts]
    return told if getattr(value, "ndim", 0) else told[0]


def is_missing(value: Any) -> bool:
    """Tell None, NaN, NaT and NA: what stands for no value."""
    return value is None or type(value).__name__ in _MISSING or (isinstance(value, float) and value != value)


def article(name: str) -> str:
    """Return a name with "a" or "an" before it."""
    return f"{'an' if name[:1].lower() in 'aeiou' and name[:1] else 'a'} {name}"
