"""Proof that a folder is whole: files, shapes, ids, hashes, and what weights and embeddings promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import MANIFEST, first_damage, load_array, load_ids, read_manifest, sha256_file
from kat.data.prompts import read_items
from kat.density.storage import check_weights, compare_ids
from kat.errors import InputError, MismatchError

_ROWS = 65_536


def verify(folder: Path, prompts: Path | None = None) -> list[str]:
    """Check a folder of `kat run`, of weights or of embeddings; return what was proved, a line each.

    `prompts` is the file that was embedded; by default the one that the folder names.

    Raises InputError if it is no such folder, MismatchError naming the first wrong file or row.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.")
    if (folder / "prefixes_all.jsonl").is_file() and (folder / "density").is_dir():
        return _verify_run(folder)
    found = read_manifest(folder)
    if found is None or found.get("stage") not in ("embed", "density"):
        there = "its manifest is missing: the run that wrote it did not finish" if _half_done(folder) else "no manifest"
        if _half_done(folder):
            raise MismatchError(f"{folder}: {there}. Run the same command again with --overwrite.")
        raise InputError(f"{folder} is no folder that kat wrote: it holds no {MANIFEST} of embeddings or weights.")
    # Rows before hashes: a hash cannot say which row is wrong.
    ids = load_ids(folder)
    options = found.get("options") or {}
    lines = [f"{folder}", *_check_embeddings(folder, ids, unit=options.get("metric") != "euclidean")]
    if found["stage"] == "density":
        lines += _check_weights(folder, ids) + _check_neighbors(folder / "neighbors", ids, found)
    lines += _check_prompts(folder, ids, found, prompts)
    if bad := first_damage(folder, found):
        raise MismatchError(f"{folder}: {bad}. Make it again with --overwrite.")
    return [*lines, f"  {len(found['outputs'])} files hash to what the manifest says"]


def _verify_run(folder: Path) -> list[str]:
    prefixes = folder / "prefixes_all.jsonl"
    found = read_manifest(prefixes)
    if found is None:
        raise MismatchError(f"{prefixes} has no manifest: the run that wrote it did not finish. Run it again.")
    if bad := first_damage(prefixes, found):
        raise MismatchError(f"{prefixes}: {bad}. Make it again with --overwrite.")
    lines = [f"{prefixes}: hashes to what its manifest says"]
    for part in ("embeddings", "density"):
        lines += verify(folder / part, prefixes)
    for path in sorted(folder.glob("pair_weights*.parquet")):
        lines += _verify_pair_weights(path, folder / "density")
    return lines


def _verify_pair_weights(path: Path, density: Path) -> list[str]:
    """What `pair_weights.parquet` promises: mean and multiplicity, a split that no group crosses, the run's weights."""
    from kat.pair_weights.storage import read_pair_weights

    found, table = read_manifest(path), read_pair_weights(path)
    remedy = "Make it again: kat weigh-pairs RUN --overwrite"
    if found is None:
        raise MismatchError(f"{path} has no manifest: the run that wrote it did not finish. {remedy}")
    if found["inputs"]["weights"] != sha256_file(density / "density_weights.npy"):
        raise MismatchError(f"{path} was made from other weights than those of {density}. {remedy}")
    kept, train = table.split != "", table.split == "train"
    if not (np.isfinite(table.v) == train).all() or not (table.v[train] > 0).all():
        row = int(np.argmax((np.isfinite(table.v) & (table.v > 0)) != train))
        raise MismatchError(
            f"{path}: row {row} (pair {table.pair_id[row]}, {table.split[row]}) has v = {table.v[row]}."
        )
    if abs((mean := float(table.v[train].mean())) - 1) > 1e-6:
        raise MismatchError(f"{path}: the mean of v over the training pairs is {mean:.6g}, not 1. {remedy}")
    _, opening, counts = np.unique(table.opening_id[kept].astype(str), return_inverse=True, return_counts=True)
    if wrong := int((table.m[kept] != counts[opening]).sum()):
        raise MismatchError(f"{path}: {wrong:,} pairs have an m that is not the number of their opening's pairs.")
    for name in ("opening_id", "group"):
        values = getattr(table, name)
        both = set(values[train].tolist()) & set(values[kept & ~train].tolist())
        if both and (name != "group" or found["options"]["split"] == "group"):
            raise MismatchError(f"{path}: {len(both):,} values of {name} train and validate, first {min(both)}.")
    if bad := first_damage(path, found):
        raise MismatchError(f"{path}: {bad}. {remedy}")
    sides = f"{int(train.sum()):,} train, {int((kept & ~train).sum()):,} validate"
    return [f"{path}", f"  {len(table):,} pairs: {sides}; v has mean 1, m is counted, no opening is on both sides"]


def _half_done(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("embeddings.npy", "density_weights.npy", "ids.json"))


def _check_embeddings(folder: Path, ids: list[str], *, unit: bool) -> list[str]:
    path = folder / "embeddings.npy"
    vectors = load_array(path)
    _expect(path, vectors, (len(ids), None))
    for start in range(0, len(vectors), _ROWS):
        norms = np.linalg.norm(vectors[start : start + _ROWS].astype(np.float64), axis=1)
        wrong = ~(np.abs(norms - 1) < 1e-4) if unit else ~np.isfinite(norms)
        if wrong.any():
            row = start + int(np.argmax(wrong))
            raise MismatchError(f"{path}: row {row} (id {ids[row]}) has length {norms[row - start]:.6g}, not 1.")
    kind = "float32 of unit length" if unit else "float32"
    return [f"  {len(ids):,} ids, all different; {vectors.shape[0]:,} × {vectors.shape[1]} {kind}"]


def _check_prompts(folder: Path, ids: list[str], found: dict[str, Any], prompts: Path | None) -> list[str]:
    path = prompts or _named_prompts(folder, found)
    if path is None:
        return ["  no file of prompts is named here; the order of the ids was not compared (name it: --prompts_path)"]
    if not path.is_file():
        raise MismatchError(f"{folder} was made from {path}, which is gone. If it moved, name it: --prompts_path FILE")
    digest = (found.get("inputs") or {}).get("items") or found.get("items_sha256")
    compare_ids(ids, read_items(path, "all").ids, str(folder / "ids.json"), str(path))
    if digest and sha256_file(path) != digest:
        raise MismatchError(
            f"{path} has the same ids but is not the file that {folder} was made from: its text changed."
        )
    return [f"  ids in the order of {path}"]


def _named_prompts(folder: Path, found: dict[str, Any]) -> Path | None:
    where = found.get("items_path")
    return folder / where if where else None


def _check_weights(folder: Path, ids: list[str]) -> list[str]:
    path = folder / "density_weights.npy"
    weights = load_array(path)
    _expect(path, weights, (len(ids),))
    check_weights(weights, ids, path)
    return [f"  {len(weights):,} weights, finite, positive, of mean {np.mean(weights, dtype=np.float64):.6f}"]


def _check_neighbors(folder: Path, ids: list[str], weights: dict[str, Any]) -> list[str]:
    if not folder.is_dir():
        return ["  no neighbours are kept here; weights cannot be explained"]
    found = read_manifest(folder)
    if found is None:
        raise MismatchError(f"{folder} has no manifest: the search did not finish. Run the same command again.")
    for part in ("inputs", "options"):
        theirs, ours = found.get(part) or {}, weights.get(part) or {}
        for key in set(theirs) & set(ours) - {"k"}:
            if theirs[key] != ours[key]:
                raise MismatchError(f"{folder} was made with another {key} than the weights beside it. Run it again.")
    near, apart = load_array(folder / "indices.npy"), load_array(folder / "distances.npy")
    _expect(folder / "distances.npy", apart, (len(ids), None))
    if near.shape != apart.shape or near.dtype != np.int32:
        raise MismatchError(f"{folder / 'indices.npy'} is {near.dtype} {near.shape}; expected int32 {apart.shape}.")
    rows = np.arange(len(ids))[:, None]
    wrong = ((near < 0) | (near >= len(ids)) | (near == rows)).any(axis=1) | (np.diff(apart, axis=1) < 0).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MismatchError(
            f"{folder}: row {row} (id {ids[row]}) has neighbours that are itself, nobody, or out of order."
        )
    if bad := first_damage(folder, found):
        raise MismatchError(f"{folder}: {bad}. Make it again with --overwrite.")
    return [f"  {near.shape[1]} neighbours of each row, nearest first, self left out"]


def _expect(path: Path, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(s in (None, t) for s, t in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != np.float32:
        want = " × ".join("any" if s is None else f"{s:,}" for s in shape)
        raise MismatchError(f"{path} is {array.dtype} of shape {array.shape}; expected float32 of {want}.")
