"""Where UMAP puts rows: its fuzzy neighbour graph in NumPy, and umap-learn's own optimiser behind it.

McInnes, Healy & Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction" (2018). The
graph is made here because umap-learn compiles its own for eight seconds before the first one, and because one of its
means depends on the number of threads; a test compares both.
"""

from __future__ import annotations

import importlib.util
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from kat.compiled import kernel_flags
from kat.errors import KatError, MissingExtraError, first_words
from kat.projection.components import principal_components

REMEDY = "pip install 'umap-learn>=0.5.7'"
_A, _B = 1.5769434602697652, 0.8950608778515733
"""The curve 1 / (1 + a·d^(2b)) nearest to UMAP's for min_dist 0.1 and spread 1: what its `find_ab_params` returns."""
_EPOCH_ROWS = 4_000_000
"""Rows times epochs: what takes about ten seconds of one core."""
_MOST_EPOCHS, _LEAST_EPOCHS = 250, 100


def load_umap() -> ModuleType:
    """Return umap-learn's module. Raises MissingExtraError where it is not installed, or cannot be imported."""
    spec = importlib.util.find_spec("umap")
    if spec is None:
        raise MissingExtraError(f"umap-learn is not installed. Type: {REMEDY}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if spec.origin is not None:
                kernel_flags(spec.origin)  # it keeps compiled code too, and fails where that cannot be written
            return importlib.import_module("umap.umap_")
    except KatError:
        raise
    except Exception as error:  # numba and what it compiles raise whatever they meet
        raise MissingExtraError(
            f"umap-learn cannot be imported: {first_words(error)} Type: {REMEDY} --force-reinstall"
        ) from error


def lay_out(umap: ModuleType, start: np.ndarray, near: np.ndarray, apart: np.ndarray, seed: int) -> np.ndarray:
    """Return coordinates [M, 2] float32 of M distinct rows from their neighbours; the same for the same arguments.

    `start` [M, 2] are places to start from. `near` and `apart` [M, q] are the q nearest others of every row, nearest
    first, and their distances, all above 0.
    """
    draw = np.random.RandomState(seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places, _ = umap.simplicial_set_embedding(
            data=None,
            graph=fuzzy_graph(near, apart),
            n_components=2,
            initial_alpha=1.0,
            a=_A,
            b=_B,
            gamma=1.0,
            negative_sample_rate=5,
            n_epochs=epochs(len(near)),
            init=_scaled(start, draw),
            random_state=draw,
            metric="euclidean",
            metric_kwds={},
            densmap=False,
            densmap_kwds={},
            output_dens=False,
            parallel=False,  # with threads, the picture would depend on them
            tqdm_kwds={"disable": True},
        )
    return np.asarray(places, np.float32)


def epochs(rows: int) -> int:
    """Return how often each edge of full strength is drawn: fewer for more rows, whose time would be long."""
    return int(np.clip(_EPOCH_ROWS // max(rows, 1), _LEAST_EPOCHS, _MOST_EPOCHS))


def starting_places(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return principal components [M, 2] of rows, 10 at the most, as umap-learn scales them."""
    places = principal_components(vectors, rows)
    largest = np.abs(places).max()
    return 10 * places / largest if largest > 0 else places


def _scaled(start: np.ndarray, draw: Any) -> np.ndarray:
    """Return starting places with a little noise, as umap-learn adds to its own: no two rows stay in one place.

    Sums differ in their last bits by the number of threads, and a layout makes much of little: the bits that differ
    are those of float64, and are rounded off here.
    """
    return (start + draw.normal(scale=1e-4, size=start.shape)).astype(np.float32)


def fuzzy_graph(near: np.ndarray, apart: np.ndarray) -> Any:
    """Return UMAP's fuzzy union of the rows' neighbourhoods, a sparse matrix [M, M] of memberships in (0, 1]."""
    from scipy.sparse import coo_matrix

    members = memberships(apart)
    rows = np.repeat(np.arange(len(near)), near.shape[1])
    one_way = coo_matrix((members.ravel(), (rows, near.ravel())), shape=(len(near), len(near))).tocsr()
    one_way.eliminate_zeros()
    back = one_way.T.tocsr()
    return (one_way + back - one_way.multiply(back)).tocoo()


def memberships(apart: np.ndarray) -> np.ndarray:
    """Return how far each neighbour [M, q] belongs to a row: exp(−(d − d₁) / σ), with Σ = log2(q + 1) in each row.

    d₁ is the distance to the nearest; σ is found by bisection, and is at least a thousandth of the mean distance (a
    mean that counts the row itself, as umap-learn's does).
    """
    beyond = apart.astype(np.float64) - apart[:, :1]
    target = np.log2(apart.shape[1] + 1)
    low, high, sigma = np.zeros(len(apart)), np.full(len(apart), np.inf), np.ones(len(apart))
    for _ in range(64):
        total = np.exp(-beyond / sigma[:, None]).sum(axis=1)
        over = total > target
        high, low = np.where(over, sigma, high), np.where(over, low, sigma)
        sigma = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)
    least = 1e-3 * apart.sum(axis=1, dtype=np.float64) / (apart.shape[1] + 1)
    return np.exp(-beyond / np.maximum(sigma, least)[:, None]).astype(np.float32)
