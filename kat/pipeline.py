"""The tour: one short function a stage. Each reads, makes one pure call, and writes whole outputs.

A stage whose output carries a manifest of the same input and options is skipped with a word.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from kat import artifacts
from kat.artifacts import finish, is_done, manifest, sha256_file, whole_file, whole_folder
from kat.config import DensityOptions, EmbedOptions, ReadOptions
from kat.data.rows import missing_file
from kat.errors import InputError

if TYPE_CHECKING:
    from kat.data.items import Items
    from kat.records import Embeddings, Weights

STORED_NEIGHBORS = 50
"""Neighbours kept on disk at least, so that weights at another k need no new search."""

EMBEDDING_FILES = ("embeddings.npy", "ids.json", "lengths.npy")
DENSITY_FILES = (
    "embeddings.npy",
    "density_weights.npy",
    "ids.json",
    "embeddings_metadata.json",
    "log_density.npy",
    "neighbor_indices.npy",
    "neighbor_distances.npy",
)


def make_prefixes(pairs_path: Path, out: Path, read: ReadOptions) -> None:
    """Pairs → one prefix an opening: OUT, OUT's stats.json, and OUT.rejected.jsonl if rows were set aside."""
    from kat.data.openings import collect_openings, prefix_line
    from kat.data.pairs import PairReader
    from kat.reports.summary import prefix_lines, prefix_stats

    wanted = manifest("prefixes", {"pairs": _input_hash(pairs_path)}, {"max_bad_rows": read.max_bad_rows})
    if is_done(out, wanted, overwrite=read.overwrite):
        return _skipped("prefixes", out)
    began = time.monotonic()
    with _rejected(out, read) as sink, whole_file(out) as file:
        reader = PairReader(pairs_path, read.max_bad_rows, sink)
        prefixes, openings = collect_openings(_with_progress(reader, "pairs"))
        for prefix in prefixes:
            file.write(prefix_line(prefix))
    stats = prefix_stats(reader.stats, openings)
    stats_path = out.with_suffix(".stats.json")
    artifacts.write_json(stats_path, stats)
    finish(out, wanted, [out, stats_path])
    _said("prefixes", f"{stats['pairs']:,} pairs → {stats['openings']:,} openings", out, began)
    print("\n".join(prefix_lines(stats)))


def embed_file(data: Path, out: Path, embed: EmbedOptions, read: ReadOptions) -> None:
    """Items → one .pt file {"ids": [str], "emb": float32 [N, D]}."""
    import torch

    wanted = _embed_manifest(data, embed, read)
    if is_done(out, wanted, overwrite=read.overwrite):
        return _skipped("embed", out)
    began = time.monotonic()
    embeddings, items = _embed(data, out, embed, read)
    with whole_file(out) as file:
        torch.save({"ids": list(embeddings.ids), "emb": torch.from_numpy(embeddings.vectors)}, file)
    finish(out, wanted, [out], model=dict(embeddings.meta))
    _said_embedded(embeddings, items, out, began)


def embed_folder(data: Path, out: Path, embed: EmbedOptions, read: ReadOptions) -> None:
    """Items → a folder of embeddings.npy, ids.json and lengths.npy ([N, 2]: tokens of the text, tokens lost)."""
    import numpy as np

    wanted = _embed_manifest(data, embed, read)
    if is_done(out, wanted, EMBEDDING_FILES, overwrite=read.overwrite):
        return _skipped("embed", out)
    began = time.monotonic()
    embeddings, items = _embed(data, out, embed, read)
    with whole_folder(out) as folder:
        np.save(folder / "embeddings.npy", embeddings.vectors, allow_pickle=False)
        np.save(folder / "lengths.npy", np.stack([embeddings.tokens, embeddings.lost], 1), allow_pickle=False)
        (folder / "ids.json").write_bytes(orjson.dumps(list(embeddings.ids)))
    where = os.path.relpath(data.resolve(), out.resolve())
    files = [out / n for n in EMBEDDING_FILES]
    finish(out, wanted, files, model=dict(embeddings.meta), items_path=where, bad_rows=items.bad)
    _said_embedded(embeddings, items, out, began)


def weigh_folder(
    source: Path, out: Path, options: DensityOptions, read: ReadOptions, items: Path | None = None
) -> None:
    """Embeddings (a folder, or a .pt file) → neighbours, density and weights in a folder that explains itself.

    `items`, the file that was embedded, gives the heaviest openings their text; an embeddings folder knows its own.
    """
    import numpy as np

    from kat.density.estimators import estimate_density
    from kat.density.neighbors import find_neighbors
    from kat.density.weights import weigh
    from kat.embedding.storage import load_embeddings
    from kat.reports.summary import weight_lines, weight_metadata

    wanted = manifest("density", {"embeddings": _embeddings_hash(source)}, options)
    if is_done(out, wanted, DENSITY_FILES, overwrite=read.overwrite):
        return _skipped("density", out)
    began = time.monotonic()
    embeddings, origin = load_embeddings(source)
    items = items or _items_path(source, origin)
    stored = min(max(options.k, STORED_NEIGHBORS), max(len(embeddings) - 1, 1))
    neighbors = find_neighbors(embeddings, stored, options.metric)
    density = estimate_density(neighbors, options.k)
    weights = weigh(density, options.ess, options.cap, options.temperature, options.max_temperature)
    meta = weight_metadata(embeddings, neighbors, density, weights, _openings(items, weights))
    meta |= {"input": {"path": _relative(items, out), **origin.get("inputs", {})}, "kat_version": wanted["kat_version"]}
    with whole_folder(out) as folder:
        _embeddings_into(source, folder, embeddings)
        (folder / "ids.json").write_bytes(orjson.dumps(list(embeddings.ids)))
        np.save(folder / "density_weights.npy", weights.values, allow_pickle=False)
        np.save(folder / "log_density.npy", density.log_values, allow_pickle=False)
        np.save(folder / "neighbor_indices.npy", neighbors.indices.astype(np.int32), allow_pickle=False)
        np.save(folder / "neighbor_distances.npy", neighbors.distances, allow_pickle=False)
        artifacts.write_json(folder / "embeddings_metadata.json", meta)
    finish(out, wanted, [out / n for n in DENSITY_FILES], items_path=_relative(items, out))
    if density.k < options.k:
        print(f"density   k is {density.k}, not {options.k}: there are only {len(weights):,} openings.")
    _said("density", f"{len(weights):,} weights from {density.k} neighbours", out, began)
    print("\n".join(weight_lines(meta)))


def compute_offline(prompts: Path, out: Path, embed: EmbedOptions, density: DensityOptions, read: ReadOptions) -> None:
    """Items → embeddings and weights in one folder, the embeddings kept apart so that other weights are cheap."""
    embed_folder(prompts, out / "embeddings", embed, read)
    weigh_folder(out / "embeddings", out, density, read, prompts)


def run(pairs: Path, out: Path, embed: EmbedOptions, density: DensityOptions, read: ReadOptions) -> None:
    """Pairs → weights: OUT/prefixes_all.jsonl, OUT/embeddings and OUT/density."""
    prefixes = out / "prefixes_all.jsonl"
    make_prefixes(pairs, prefixes, read)
    embed_folder(prefixes, out / "embeddings", embed, ReadOptions(overwrite=read.overwrite))
    weigh_folder(out / "embeddings", out / "density", density, read, prefixes)


def write_demo(out: Path, pairs: int, seed: int, overwrite: bool) -> None:
    """A file of demo pairs, each with its known topic."""
    from kat.data.demo import demo_pairs

    wanted = manifest("demo-data", {}, {"pairs": pairs, "seed": seed})
    if is_done(out, wanted, overwrite=overwrite):
        return _skipped("demo-data", out)
    began = time.monotonic()
    with whole_file(out) as file:
        for pair in demo_pairs(pairs, seed):
            file.write(orjson.dumps(pair) + b"\n")
    finish(out, wanted, [out])
    _said("demo-data", f"{pairs:,} pairs", out, began)


def _embed(data: Path, out: Path, embed: EmbedOptions, read: ReadOptions) -> tuple[Embeddings, Items]:
    from dataclasses import asdict

    from kat.data.items import read_items
    from kat.embedding.encoder import encode

    with _rejected(out, read) as sink:
        items = read_items(data, read.max_bad_rows, sink)
    return encode(items.prefixes, progress=True, **asdict(embed)), items


def _embed_manifest(data: Path, embed: EmbedOptions, read: ReadOptions) -> dict[str, Any]:
    from dataclasses import asdict

    from kat.models.loading import weights_digest
    from kat.models.sources import resolve

    hashes = {
        "items": _input_hash(data),
        "model": weights_digest(resolve(embed.model, allow_network=embed.allow_network)),
    }
    return manifest("embed", hashes, asdict(embed) | {"max_bad_rows": read.max_bad_rows})


def _input_hash(path: Path) -> str:
    if not path.is_file():
        raise InputError(missing_file(path))
    return sha256_file(path)


def _embeddings_hash(source: Path) -> str:
    if source.is_dir():
        if not (source / "embeddings.npy").is_file():
            raise InputError(f"{source} holds no embeddings.npy. Make it with: kat embed ITEMS --out {source}")
        return sha256_file(source / "embeddings.npy")
    return _input_hash(source)


def _embeddings_into(source: Path, folder: Path, embeddings: Embeddings) -> None:
    import numpy as np

    if source.is_dir():
        artifacts.link_or_copy(source / "embeddings.npy", folder / "embeddings.npy")
    else:
        np.save(folder / "embeddings.npy", embeddings.vectors, allow_pickle=False)


def _items_path(source: Path, origin: dict[str, Any]) -> Path | None:
    path = source / origin["items_path"] if "items_path" in origin else None
    return path if path and path.is_file() else None


def _openings(items: Path | None, weights: Weights) -> dict[str, str] | None:
    from kat.data.items import read_items
    from kat.reports.summary import heaviest_ids

    if items is None:
        return None
    wanted = set(heaviest_ids(weights))
    return {p.id: p.opening for p in read_items(items, "all").prefixes if p.id in wanted}


def _relative(path: Path | None, folder: Path) -> str | None:
    return None if path is None else os.path.relpath(path.resolve(), folder.resolve())


@contextlib.contextmanager
def _rejected(out: Path, read: ReadOptions) -> Iterator[Any]:
    """A sink for bad rows, to OUT.rejected.jsonl; None where none are allowed. No bad rows, no file."""
    if read.max_bad_rows == 0:
        yield None
        return
    path = out.with_name(out.name + ".rejected.jsonl")
    count = 0
    with whole_file(path) as file:

        def sink(line: bytes) -> None:
            nonlocal count
            count += 1
            file.write(line)

        yield sink
    if count:
        print(f"rejected  {count:,} bad rows → {path}")
    else:
        path.unlink()


def _with_progress(items, unit: str):
    from tqdm import tqdm

    return tqdm(items, desc="read", unit=f" {unit}", disable=None, delay=1)


def _said(stage: str, what: str, out: Path, began: float) -> None:
    print(f"{stage:<9} {what} → {out}   {time.monotonic() - began:.1f} s")


def _skipped(stage: str, out: Path) -> None:
    print(f"{stage:<9} skipped: {out} was made from the same input and options.")


def _said_embedded(embeddings: Embeddings, items: Items, out: Path, began: float) -> None:
    meta, lost = embeddings.meta, embeddings.lost
    what = f"{len(embeddings):,} texts, {int(embeddings.tokens.sum(dtype='int64')):,} tokens with {meta['name']}"
    _said("embed", f"{what} ({meta['dimension']} dimensions, {meta['precision']})", out, began)
    if lost.any():
        kept = "end" if meta["long_text"] == "tail" else "beginning"
        n, total = int((lost > 0).sum()), int(lost.sum(dtype="int64"))
        print(
            f"  {n:,} texts are longer than {meta['max_tokens']} tokens: their {kept} was kept, {total:,} tokens lost"
        )
    if items.made_ids:
        print(f"  {items.made_ids:,} rows had no id; it was computed from the opening")
