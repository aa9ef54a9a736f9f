"""The map's columns: points as a page carries them, deflate-compressed and in base64, texts clipped to what fits.

The page reads them with `DecompressionStream("deflate")`. Rows stand in the order in which they are drawn.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kat.errors import InputError
from kat.reports.blocks import Points
from kat.reports.html.cells import clipped, fits, visible

MOST_POINTS = 100_000
MOST_LETTERS = 300
"""Texts are clipped here even where there is room for more."""
_GRID = 65_535
_SAMPLE = 2_000
_HEX = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Packed:
    """Points for a page: what is said of them (`facts`), and compressed columns in base64 by their names.

    `rows` are the rows of the points that are drawn, in order; `letters` is what texts were clipped to, `clipped` how
    many of them were.
    """

    facts: dict[str, Any]
    columns: dict[str, str]
    rows: np.ndarray
    letters: int
    clipped: int

    def __len__(self) -> int:
        """Return the bytes of the columns."""
        return sum(map(len, self.columns.values()))


def pack(points: Points) -> Packed:
    """Return points without their texts, those of too many a seeded sample: common ones first, rare ones on top."""
    _check(points)
    rows = _drawn(points)
    xy = np.asarray(points.xy, dtype=np.float64)[rows]
    low, high = (xy.min(0), xy.max(0)) if len(rows) else (np.zeros(2), np.ones(2))
    span = np.where(high > low, high - low, 1.0)
    grid = np.rint((xy - low) / span * _GRID).astype("<u2")
    ids = [points.ids[row] for row in rows]
    hexes = all(map(_HEX.fullmatch, ids))
    columns = {
        "x": _compressed(grid[:, 0].tobytes()),
        "y": _compressed(grid[:, 1].tobytes()),
        "ids": _compressed(bytes.fromhex("".join(ids)) if hexes else json.dumps(ids).encode()),
    }
    for number, values in enumerate(points.numbers.values()):
        columns[f"number-{number}"] = _compressed(np.asarray(values, dtype="<f4")[rows].tobytes())
    kinds = []
    for number, (name, words) in enumerate(points.kinds.items()):
        dictionary, index = _dictionary([words[row] for row in rows])
        columns[f"kind-{number}"] = _compressed(index.tobytes())
        kinds.append({"name": visible(name), "values": dictionary})
    facts = {
        "points": len(rows),
        "of": len(points),
        "unit": [points.unit.one, points.unit.several],
        "hex": hexes,
        "low": low.tolist(),
        "span": span.tolist(),
        "numbers": [visible(name) for name in points.numbers],
        "kinds": kinds,
        "labels": [[float(x), float(y), clipped(words, 60)] for x, y, words in points.labels],
    }
    return Packed(facts, columns, rows, 0, 0)


def with_texts(packed: Packed, texts: Sequence[str], room: int) -> Packed:
    """Return packed points with their texts, clipped to as many letters as fit into `room` bytes of base64."""
    texts = [texts[row] for row in packed.rows]
    few = texts[:: max(1, len(texts) // _SAMPLE)]
    share = len(texts) / max(len(few), 1)
    letters = _most(lambda n: share * len(_joined(few, n)) <= room)
    while True:
        column = _joined(texts, letters)
        if len(column) <= room or letters == 0:
            break
        letters = min(letters - 1, int(letters * room / len(column)))
    many = sum(not fits(text, letters) for text in texts)
    facts = {**packed.facts, "letters": letters}
    return replace(packed, facts=facts, columns={**packed.columns, "texts": column}, letters=letters, clipped=many)


def unpacked(column: str) -> bytes:
    """Return what a column holds, as the page reads it."""
    return zlib.decompress(base64.b64decode(column))


def _check(points: Points) -> None:
    many = len(points)
    if np.shape(points.xy) != (many, 2) or not np.isfinite(points.xy).all():
        raise InputError(f"the map's coordinates are {np.shape(points.xy)}, some not finite or not [{many}, 2]")
    sizes = {"texts": len(points.texts), **{n: len(v) for n, v in points.numbers.items()}}
    sizes |= {name: len(words) for name, words in points.kinds.items()}
    for name, size in sizes.items():
        if size != many:
            raise InputError(f"the map has {many} points, but {size} values of {visible(name)}")


def _drawn(points: Points) -> np.ndarray:
    """Return the rows that are drawn, in order: dense before rare ones, or light before heavy ones."""
    rows = np.arange(len(points))
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), MOST_POINTS, replace=False))
    named = {name.lower(): np.asarray(values, dtype=np.float64) for name, values in points.numbers.items()}
    density = named.get("log density", named.get("density"))
    order = named.get("weight") if density is None else -density
    if order is None:
        return rows
    order = np.nan_to_num(order[rows], nan=-np.inf)
    return rows[np.argsort(order, kind="stable")]


def _dictionary(words: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the words, the most frequent first, and where each row's stands; the one at 0 is what is not known."""
    counts = Counter(words)
    counts.pop("", None)
    order = ["", *sorted(counts, key=lambda word: (-counts[word], word))]
    places = {word: place for place, word in enumerate(order)}
    return [clipped(word, 80) for word in order], np.array([places[word] for word in words], dtype="<u4")


def _joined(texts: Sequence[str], letters: int) -> str:
    # No text that is visible holds NUL.
    return _compressed("\0".join(clipped(text, letters) for text in texts).encode("utf-8"))


def _most(fits: Callable[[int], bool]) -> int:
    """Return the largest number of letters that fits."""
    if fits(MOST_LETTERS):
        return MOST_LETTERS
    low, high = 0, MOST_LETTERS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _compressed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")
