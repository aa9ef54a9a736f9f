"""The first two principal components: a map that needs no other package, and where the layout of one begins."""

from __future__ import annotations

import numpy as np

from kat.errors import InputError

_ROWS = 8192
"""Rows in memory at once, so that millions of mapped rows take no more of it than a few thousand."""
_DENSE = 1024
"""Columns up to which all components are computed; of wider vectors only the first few are."""
_SPARE, _ROUNDS = 14, 300


def principal_components(vectors: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the first two principal components [N, 2] float64 of `vectors` [N, D], or of their `rows` [M] alone.

    Covariances are summed in float64 over chunks of rows: D² numbers of memory, whatever N. A component is turned so
    that its largest loading is positive. What has no second component (one column, one row, one place) has zeros.

    Raises InputError for vectors that are not finite.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    mean, covariance = _moments(vectors, rows)
    axes = _leading(covariance)
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    places = np.zeros((len(rows), 2))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        places[part, : axes.shape[1]] = (_floats(vectors, rows[part]) - mean) @ axes
    return places


def _floats(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(vectors[rows], np.float64)


def _moments(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [D] and the covariance [D, D] of rows, in two passes: one loses what a large mean swamps."""
    width, parts = vectors.shape[1], [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    mean, covariance = np.zeros(width), np.zeros((width, width))
    for part in parts:
        mean += _floats(vectors, part).sum(axis=0) / len(rows)
    if not np.isfinite(mean).all():
        raise InputError("The vectors hold NaN or infinity, which have no place on a map: embed again.")
    for part in parts:
        centred = _floats(vectors, part) - mean
        covariance += centred.T @ centred / len(rows)
    return mean, covariance


def _leading(covariance: np.ndarray) -> np.ndarray:
    """Return the eigenvectors [D, ≤ 2] of the two largest eigenvalues; those without a spread are left out.

    Beyond 1,024 columns by orthogonal iteration with spare columns (Golub & Van Loan, Matrix Computations, 8.2): what
    is kept converges as the ratio of the 15th eigenvalue to it, in seconds where all components would take minutes.
    """
    if len(covariance) <= _DENSE:
        values, axes = np.linalg.eigh(covariance)
    else:
        basis = np.random.default_rng(0).standard_normal((len(covariance), _SPARE))
        before = np.zeros(2)
        for _ in range(_ROUNDS):
            basis, _ = np.linalg.qr(covariance @ basis)
            values, turned = np.linalg.eigh(basis.T @ covariance @ basis)
            if np.allclose(values[-2:], before, rtol=1e-13, atol=0):
                break
            before = values[-2:]
        axes = basis @ turned
    kept = values[::-1][:2] > max(values[-1], 0) * 1e-12
    return axes[:, ::-1][:, :2][:, kept].copy()
