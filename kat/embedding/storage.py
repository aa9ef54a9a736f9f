"""Embeddings from disk: kat's folder, or the single .pt file of `kat_embed`. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import check_array, check_ids, load_array, read_manifest
from kat.errors import InputError, MismatchError
from kat.records import Embeddings
from kat.run_folder import LENGTHS, VECTORS, load_ids

_UNREADABLE = (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError)


_ROWS = 65_536
"""Rows whose lengths are checked at once."""


def vectors_path(source: Path) -> Path:
    """Return the file of a folder of embeddings that is hashed as its content, or a .pt file itself.

    Raises InputError for a folder without embeddings.
    """
    if source.is_dir() and not (source / VECTORS).is_file():
        raise InputError(f"{source} holds no {VECTORS}. Make it with: kat embed ITEMS --out {source}")
    return source / VECTORS if source.is_dir() else source


def load_embeddings(source: Path) -> tuple[Embeddings, dict[str, Any]]:
    """Load the embeddings of a folder or a .pt file, and the manifest they came with ({} if none).

    Raises MismatchError if ids and vectors do not fit together, or the file is of another kind.
    """
    embeddings, origin = _from_folder(source) if source.is_dir() else _from_pt(source)
    if embeddings.vectors.ndim != 2:
        raise MismatchError(f"{source} holds vectors of shape {tuple(embeddings.vectors.shape)}; expected [N, D].")
    check_ids(embeddings.ids, len(embeddings), str(source))
    return embeddings, origin


def _from_folder(folder: Path) -> tuple[Embeddings, dict[str, Any]]:
    origin = read_manifest(folder) or {}
    vectors = load_array(folder / VECTORS)
    tokens = lost = None
    if (folder / LENGTHS).is_file():
        lengths = np.asarray(load_array(folder / LENGTHS))
        if (lengths >= 0).all():
            tokens, lost = lengths.T
    return Embeddings(load_ids(folder), vectors, tokens, lost, origin.get("model", {})), origin


def _from_pt(path: Path) -> tuple[Embeddings, dict[str, Any]]:
    import pickle

    import torch

    try:
        value = torch.load(path, weights_only=True, map_location="cpu")
        ids, vectors = value["ids"], value["emb"].float().numpy()
        ids = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MismatchError(f'{path} is no file of {{"ids": [str], "emb": [N, D]}}: {first}') from error
    origin = read_manifest(path) or {}
    return Embeddings([str(i) for i in ids], vectors, meta=origin.get("model", {})), origin


def check_embeddings(folder: Path, ids: list[str], *, unit: bool = True) -> str:
    """Check the vectors of a folder against its ids; return what was proved. Raises MismatchError.

    `unit` says whether rows must be of unit length; they must be finite in any case.
    """
    return check_vectors(folder / VECTORS, load_array(folder / VECTORS), ids, unit=unit)


def check_vectors(path: Path, vectors: np.ndarray, ids: list[str], *, unit: bool = True) -> str:
    """Check the vectors [N, D] of a file against their ids; see `check_embeddings`."""
    check_array(path, vectors, (len(ids), None))
    for start in range(0, len(vectors), _ROWS):
        norms = np.linalg.norm(vectors[start : start + _ROWS].astype(np.float64), axis=1)
        wrong = ~(np.abs(norms - 1) < 1e-4) if unit else ~np.isfinite(norms)
        if wrong.any():
            row = start + int(np.argmax(wrong))
            raise MismatchError(f"{path}: row {row} (id {ids[row]}) has length {norms[row - start]:.6g}, not 1.")
    kind = "float32 of unit length" if unit else "float32"
    return f"  {len(ids):,} ids, all different; {vectors.shape[0]:,} × {vectors.shape[1]} {kind}"
