"""Embeddings from disk: kat's folder, the single .pt file of `kat_embed`, or a file of others. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kat.arrays import check_array, check_ids, load_array
from kat.artifacts import check_vouched, is_kept, readable_manifest
from kat.embedding.elsewhere import NUMBERED, ids_beside, read_vectors
from kat.errors import InputError, MismatchError
from kat.records import Embeddings
from kat.run_folder import LENGTHS, VECTORS, load_ids

_ROWS = 65_536
"""Rows whose lengths are checked at once."""


def vectors_path(source: Path) -> Path | tuple[Path, ...]:
    """Return the file of a folder of embeddings that is hashed as its content, or a single file and its ids.

    Raises InputError for a folder without embeddings.
    """
    if source.is_dir() and not (source / VECTORS).is_file():
        raise InputError(f"{source} holds no {VECTORS}. Make it with: kat embed ITEMS --out {source}")
    ids = ids_beside(source)
    return source / VECTORS if source.is_dir() else (source, ids) if ids else source


def load_embeddings(source: Path, *, vouched: bool = True) -> tuple[Embeddings, dict[str, Any]]:
    """Load the embeddings of a folder or a file (see `read_vectors`), and the manifest they came with ({} if none).

    The manifest says `"ids": "row numbers"` of vectors that came without ids. A file is compared with what its manifest
    says of it if `vouched`; those of a folder always are.

    Raises MismatchError if ids and vectors do not fit together, or the file is of another kind.
    """
    embeddings, origin = _from_folder(source) if source.is_dir() else _from_file(source, vouched)
    if embeddings.vectors.ndim != 2:
        raise MismatchError(f"{source} holds vectors of shape {tuple(embeddings.vectors.shape)}; expected [N, D].")
    check_ids(embeddings.ids, len(embeddings), str(source))
    return embeddings, origin


def _from_file(path: Path, vouched: bool) -> tuple[Embeddings, dict[str, Any]]:
    if vouched and path.is_file():
        check_vouched(path)
    ids, vectors, numbered = read_vectors(path)
    origin = dict(readable_manifest(path) or {})
    meta = origin.get("model", {})
    return Embeddings(ids, vectors, meta=meta), origin | ({"ids": NUMBERED} if numbered else {})


def _from_folder(folder: Path) -> tuple[Embeddings, dict[str, Any]]:
    origin = readable_manifest(folder) or {}
    vectors = load_array(folder / VECTORS)
    tokens = lost = None
    if is_kept(folder / LENGTHS):
        lengths = np.asarray(load_array(folder / LENGTHS))
        if lengths.shape != (len(vectors) if vectors.ndim else 0, 2) or lengths.dtype.kind not in "iu":
            raise MismatchError(
                f"{folder / LENGTHS} is {lengths.dtype} of shape {lengths.shape}; expected whole numbers, two for each "
                f"of the vectors, which are of shape {vectors.shape}. Make it again with --overwrite."
            )
        if (lengths >= 0).all():
            tokens, lost = lengths.T
    return Embeddings(load_ids(folder), vectors, tokens, lost, origin.get("model", {})), origin


def check_embeddings(folder: Path, ids: list[str], *, unit: bool = True) -> str:
    """Check the vectors of a folder against its ids; return what was proved. Raises MismatchError.

    `unit` says whether rows must be of unit length; they must be finite in any case.
    """
    return check_vectors(folder / VECTORS, load_array(folder / VECTORS, vouched=False), ids, unit=unit)


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
