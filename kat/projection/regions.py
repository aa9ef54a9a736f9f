"""Crowded regions of a map, and the words that tell each from the others.

Regions are the basins of a smoothed histogram, merged where the pass between two is hardly lower than the lower peak
(Chazal, Guibas, Oudot & Skraba, "Persistence-based clustering in Riemannian manifolds", JACM 2013). Crowded is meant
on the map: density is measured elsewhere, among the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kat.errors import InputError
from kat.parameters import whole_number
from kat.projection.words import telling_words

_CELLS = 128
_BLUR, _LEAST_BLUR, _MOST_BLUR = 7.0, 1.2, 4.0
"""Standard deviation of the smoothing, in cells: a factor of N^(−1/6), Silverman's rule for planes, and its limits."""
_TRIMMED = 0.005
"""The share of openings at either end of a coordinate that the histogram's outermost cells hold."""
_PASS = 0.8
"""Two basins are one where the pass between them is higher than this share of the lower peak."""
_NOISE = 2.0
"""And where the peak stands out of the pass by no more than this times √peak: so much is chance (Poisson's)."""
_FLOOR = 0.25
"""A region ends where the map is less crowded than this share of its peak."""
_LEAST_SIZE, _LEAST_SHARE = 5, 0.002


@dataclass(frozen=True)
class Region:
    """A crowded region: where its most crowded place is, its words, most telling first, and its number of openings."""

    x: float
    y: float
    words: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Regions:
    """The regions of a map, largest first: `of` [N] int64 is each opening's place in `labels`, −1 outside of all."""

    of: np.ndarray
    labels: list[Region]


def find_regions(xy: np.ndarray, texts: Sequence[str], *, most: int = 25, words: int = 3, seed: int = 0) -> Regions:
    """Return the crowded regions of a map, at most `most`, each with its most telling words, `words` of them at most.

    `xy` [N, 2] are coordinates and `texts` N openings. `seed` draws the openings that are read where there are many.
    Words are plain text, in lower case; a region whose openings have no word of their own has none.

    Raises InputError for coordinates that are not finite or that do not belong to the texts.
    """
    most, words = whole_number("most", most), whole_number("words", words)
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) != len(texts):
        raise InputError(f"Coordinates have shape {xy.shape}; expected ({len(texts)}, 2), a row a text.")
    if not np.isfinite(xy).all():
        raise InputError(f"Coordinates of row {int(np.argmin(np.isfinite(xy).all(axis=1)))} are not finite.")
    if not len(xy):
        return Regions(np.zeros(0, np.int64), [])
    of, peaks = crowded(xy, most)
    told = telling_words(texts, of, len(peaks), words, seed)
    sizes = np.bincount(of[of >= 0], minlength=len(peaks)).tolist()
    rows = zip(peaks.tolist(), told, sizes, strict=True)
    return Regions(of, [Region(x, y, tuple(own), size) for (x, y), own, size in rows])


def crowded(xy: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the region [N] of each row, −1 for none, and the peaks [R, 2] of the regions, largest region first."""
    blur = float(np.clip(_BLUR * len(xy) ** (-1 / 6), _LEAST_BLUR, _MOST_BLUR))
    cell, centres = _cells(xy, blur)
    density = _smoothed(np.bincount(cell, minlength=_CELLS**2).reshape(_CELLS, _CELLS), blur)
    peak, density = basins(density), density.ravel()
    own = np.where(density[cell] >= _FLOOR * density[peak[cell]], peak[cell], -1)
    peaks, sizes = np.unique(own[own >= 0], return_counts=True)
    large = sizes >= max(_LEAST_SIZE, _LEAST_SHARE * len(xy))
    peaks = peaks[large][np.argsort(-sizes[large], kind="stable")[:most]]
    number = np.full(_CELLS**2 + 1, -1)  # the last, −1, stays without a region
    number[peaks] = np.arange(len(peaks))
    return number[own].astype(np.int64), centres[peaks]


def _cells(xy: np.ndarray, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell [N] that each row is in, and the centres [cells, 2] of all cells, which are squares.

    The grid holds all but the outermost openings, which count in its border: one far opening must not make all others
    one cell.
    """
    low, high = np.quantile(xy, [_TRIMMED, 1 - _TRIMMED], axis=0)
    margin = 4 * blur / _CELLS * (high - low).max()
    side = max((high - low).max() + 2 * margin, np.abs(xy).max() * 1e-9, 1e-9) / _CELLS
    corner = (low + high) / 2 - side * _CELLS / 2
    at = np.clip((xy - corner) // side, 0, _CELLS - 1).astype(np.int64)
    line = (np.arange(_CELLS) + 0.5) * side
    x, y = np.meshgrid(corner[0] + line, corner[1] + line, indexing="ij")
    return at[:, 0] * _CELLS + at[:, 1], np.stack([x.ravel(), y.ravel()], axis=1)


def _smoothed(histogram: np.ndarray, blur: float) -> np.ndarray:
    """Return how many openings lie around each cell: each counts by a normal curve of height 1, cut off at 4 σ."""
    steps = np.arange(_CELLS)[:, None] - np.arange(_CELLS)
    kernel = np.where(np.abs(steps) <= 4 * blur, np.exp(-0.5 * (steps / blur) ** 2), 0)
    return kernel @ histogram @ kernel.T


def basins(density: np.ndarray) -> np.ndarray:
    """Return for each cell of `density` [G, H] the peak, as a flat place, whose basin it is in; itself where empty.

    Cells are taken from the most crowded on. One joins the highest peak beside it; where two basins meet over a pass
    higher than 0.8 of the lower peak, or one that chance alone would put there, that peak's basin becomes the other's.
    """
    padded = np.pad(density, 1).ravel()
    width = density.shape[1] + 2
    beside = [row * width + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    root = np.arange(len(padded)).tolist()
    height, is_seen = padded.tolist(), [False] * len(padded)

    def peak_of(at: int) -> int:
        while root[at] != at:
            root[at] = root[root[at]]
            at = root[at]
        return at

    for at in np.argsort(-padded, kind="stable")[: np.count_nonzero(padded > 0)].tolist():
        is_seen[at] = True
        peaks = sorted({peak_of(at + step) for step in beside if is_seen[at + step]}, key=lambda p: (-height[p], p))
        if peaks:
            root[at] = peaks[0]
        for lower in peaks[1:]:
            if height[at] > min(_PASS * height[lower], height[lower] - _NOISE * height[lower] ** 0.5):
                root[lower] = peaks[0]
    inside = [row * width + column for row in range(1, len(density) + 1) for column in range(1, width - 1)]
    flat = np.array([peak_of(at) for at in inside])
    return (flat // width - 1) * density.shape[1] + flat % width - 1
