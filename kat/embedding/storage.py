"""Embeddings from disk: kat's folder, or the single .pt file of `kat_embed`. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import check_ids, load_array, load_ids, read_manifest
from kat.errors import MismatchError
from kat.records import Embeddings

_UNREADABLE = (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError)


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
    vectors = load_array(folder / "embeddings.npy")
    tokens = lost = None
    if (folder / "lengths.npy").is_file():
        lengths = np.asarray(load_array(folder / "lengths.npy"))
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
