"""The tour: one short function a stage. Each reads, makes one pure call, and writes whole outputs.

A stage whose output carries a manifest of the same input and options is skipped with a word.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from kat import artifacts
from kat.artifacts import is_done, manifest, manifest_path, seal, sealed, sha256_file, whole_folder
from kat.config import DensityOptions, EmbedOptions, RunOptions
from kat.embedding.checkpoint import checkpoint_manifest, checkpoint_path, discard, remove
from kat.errors import InputError
from kat.reports.console.embed import embedded_lines
from kat.stages.stage import (
    check_output,
    input_hash,
    rejected_path,
    relative,
    said,
    said_rejected,
    skipped,
    with_progress,
)

if TYPE_CHECKING:
    from kat.data.prompts import ItemFile
    from kat.embedding.checkpoint import EmbeddingCheckpoint
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
    "lengths.npy",
)


def make_prefixes(pairs_path: Path, out: Path, how: RunOptions) -> None:
    """Pairs → one prefix an opening: OUT, OUT's stats.json, and OUT.rejected.jsonl if rows were set aside."""
    from kat.data.openings import collect_openings, prefix_line
    from kat.data.pairs import PairReader
    from kat.reports.console.density import prefix_lines, prefix_stats

    check_output(out, pairs_path)
    stats_path = out.with_suffix(".stats.json")
    for beside in (stats_path, rejected_path(out)):
        check_output(beside, pairs_path)
    wanted = manifest("prefixes", {"pairs": input_hash(pairs_path)}, {"max_bad_rows": how.max_bad_rows})
    if is_done(out, wanted, overwrite=how.overwrite):
        return skipped("prefixes", out)
    began = time.monotonic()
    with artifacts.whole_files(rejected_path(out), stats_path, out, manifest_path(out)) as (bad, beside, file, record):
        reader = PairReader(pairs_path, how.max_bad_rows, bad.write)
        prefixes, openings = collect_openings(with_progress(reader, "pairs"))
        file.writelines(map(prefix_line, prefixes))
        stats = prefix_stats(reader.stats, openings)
        beside.write(artifacts.json_bytes(stats))
        files = {out.name: file, stats_path.name: beside}
        record.write(sealed(wanted, files, pairs_path=relative(pairs_path, out.parent)))
    said_rejected(out, reader.stats.bad)
    said("prefixes", f"{stats['pairs']:,} pairs → {stats['openings']:,} openings", out, began)
    print("\n".join(prefix_lines(stats)))


def embed_file(data: Path, out: Path, embed: EmbedOptions, how: RunOptions) -> None:
    """Items → one .pt file {"ids": [str], "emb": float32 [N, D]}. Goes on where a stopped run was."""
    import torch

    for made in (out, rejected_path(out), manifest_path(out)):
        check_output(made, data)
    wanted = _embed_manifest(data, embed, how)
    if is_done(out, wanted, overwrite=how.overwrite):
        discard(out, wanted)
        return skipped("embed", out)
    began = time.monotonic()
    with artifacts.whole_files(rejected_path(out), out, manifest_path(out)) as (bad, file, record):
        items = _checked(data, how, bad)
        with _embedded(items, out, wanted, embed, how) as (work, meta):
            ids, lost = [item.id for item in items], work.lengths[:, 1].tolist()
            torch.save({"ids": ids, "emb": torch.from_numpy(work.vectors)}, file)
            cut = {i: n for i, n in zip(ids, lost, strict=True) if n}
            record.write(sealed(wanted, {out.name: file}, model=meta, tokens_lost=cut))
            lines = embedded_lines(work.lengths, meta, items.made_ids)
            _check_unchanged(data, out, wanted)
    discard(out, wanted)
    _said_embedded(lines, items, out, began)


def embed_folder(data: Path, out: Path, embed: EmbedOptions, how: RunOptions) -> None:
    """Items → a folder of embeddings.npy, ids.json and lengths.npy ([N, 2]: tokens of the text, tokens lost).

    Goes on where a stopped run was.
    """
    out = out if out.name not in ("", "..") else out.resolve()  # what stands beside it needs a name
    check_output(rejected_path(out), data)
    wanted = _embed_manifest(data, embed, how)
    if is_done(out, wanted, EMBEDDING_FILES, overwrite=how.overwrite):
        discard(out, wanted)
        return skipped("embed", out)
    began = time.monotonic()
    # The rejected rows get their name before the folder does: a folder that is whole lacks nothing.
    with whole_folder(out) as folder, artifacts.whole_files(rejected_path(out)) as (bad,):
        items = _checked(data, how, bad)
        with _embedded(items, out, wanted, embed, how) as (work, meta):
            for name in ("embeddings.npy", "lengths.npy"):
                artifacts.link_or_copy(work.folder / name, folder / name)
            with (folder / "ids.json").open("wb") as file:
                file.writelines(artifacts.json_list(item.id for item in items))
            seal(folder, wanted, model=meta, items_path=relative(data, out), bad_rows=items.bad)
            lines = embedded_lines(work.lengths, meta, items.made_ids)
            _check_unchanged(data, out, wanted)
    discard(out, wanted)
    _said_embedded(lines, items, out, began)


def find_folder(source: Path, out: Path, options: DensityOptions, how: RunOptions) -> None:
    """Embeddings (a folder, or a .pt file) → a folder of their neighbours. Goes on where a stopped search was."""
    from kat.embedding.storage import load_embeddings
    from kat.neighbors.find import find_neighbors
    from kat.neighbors.storage import NEIGHBOR_FILES, save_neighbors

    k = max(options.k, STORED_NEIGHBORS)
    settings = {"k": k, **{name: getattr(options, name) for name in ("metric", "center", "search", "least_recall")}}
    wanted = manifest("neighbors", {"embeddings": _embeddings_hash(source)}, settings)
    if is_done(out, wanted, NEIGHBOR_FILES, overwrite=how.overwrite):
        return skipped("neighbors", out)
    began = time.monotonic()
    embeddings, _ = load_embeddings(source)
    out.mkdir(parents=True, exist_ok=True)
    neighbors = find_neighbors(
        embeddings,
        min(k, max(len(embeddings) - 1, 1)),
        options.metric,
        options.center,
        how.device,
        progress=True,
        checkpoint=out / "unfinished.npz",
        search=options.search,
        least_recall=options.least_recall,
    )
    how_good = "exact" if neighbors.recall == 1 else f"recall {neighbors.recall:.4f}"
    with whole_folder(out) as folder:
        save_neighbors(neighbors, folder)
        seal(folder, wanted, recall=neighbors.recall)
    said("neighbors", f"{neighbors.k} of each of {len(neighbors):,} openings, {how_good}", out, began)


def weigh_folder(source: Path, out: Path, options: DensityOptions, how: RunOptions, items: Path | None = None) -> None:
    """Embeddings (a folder, or a .pt file) → neighbours, density and weights in a folder that explains itself.

    `items`, the file that was embedded, gives the heaviest openings their text; an embeddings folder knows its own.
    """
    import numpy as np

    from kat.embedding.storage import load_embeddings
    from kat.reports.console.density import weight_lines, weight_metadata

    items = _checked_items(source, items, how)
    find_folder(source, out / "neighbors", options, how)
    wanted = manifest("density", {"embeddings": _embeddings_hash(source)}, options)
    if is_done(out, wanted, DENSITY_FILES, overwrite=how.overwrite):
        return skipped("density", out)
    began = time.monotonic()
    embeddings, origin = load_embeddings(source)
    weights = weights_of(embeddings, out / "neighbors", options)
    meta = weight_metadata(embeddings, weights, _openings(items, weights))
    meta |= {"input": {"path": relative(items, out), **origin.get("inputs", {})}, "kat_version": wanted["kat_version"]}
    with whole_folder(out) as folder:
        _embeddings_into(source, folder, embeddings, options.metric)
        (folder / "ids.json").write_bytes(orjson.dumps(list(embeddings.ids)))
        np.save(folder / "density_weights.npy", weights.values, allow_pickle=False)
        np.save(folder / "log_density.npy", weights.density.log_values, allow_pickle=False)
        np.save(folder / "lengths.npy", _lengths(embeddings), allow_pickle=False)
        (folder / "embeddings_metadata.json").write_bytes(artifacts.json_bytes(meta))
        digest = origin.get("inputs", {}).get("items")
        seal(folder, wanted, items_path=relative(items, out), items_sha256=digest)
    if meta["k"] < options.k:
        print(f"density   k is {meta['k']}, not {options.k}: there are only {len(weights):,} openings.")
    said("density", f"{len(weights):,} weights from {meta['k']} neighbours", out, began)
    print("\n".join(weight_lines(meta)))


def weights_of(embeddings: Embeddings, neighbors: Path, options: DensityOptions) -> Weights:
    """The weights of embeddings whose neighbours are on disk."""
    from kat.density.estimators import estimate_density
    from kat.density.weights import weigh
    from kat.neighbors.storage import load_neighbors

    density = estimate_density(load_neighbors(neighbors, embeddings), options.k, options.estimator)
    return weigh(density, options.ess, options.cap, options.temperature, options.max_temperature)


def explain(folder: Path, opening: str) -> list[str]:
    """Why an opening of a weights folder weighs what it weighs, in words."""
    from kat.embedding.storage import load_embeddings
    from kat.reports.console.density import explanation_lines

    found = artifacts.read_manifest(folder)
    if found is None or found.get("stage") != "density":
        raise InputError(f"{folder} is no folder of weights. Make one with: kat density EMBEDDINGS --out {folder}")
    embeddings, _ = load_embeddings(folder)
    weights = weights_of(embeddings, folder / "neighbors", DensityOptions(**found["options"]))
    try:
        why = weights.explain(opening)
    except KeyError as error:
        raise InputError(error.args[0]) from None
    items = _items_path(folder, found)
    wanted = [opening, *(i for i, _ in why["nearest"])]
    return explanation_lines(why, {} if items is None else _texts(items, wanted))


def sample_folder(folder: Path, out: Path, budget: int, seed: int, overwrite: bool) -> None:
    """Weights → a text file of sampled ids, and beside it the inclusion probability of every id."""
    import numpy as np

    from kat.artifacts import load_array, load_ids
    from kat.density.sampling import sample

    path, beside = folder / "density_weights.npy", out.with_name(out.name + ".probabilities.jsonl")
    for made in (out, beside):
        check_output(made, *folder.iterdir())
    wanted = manifest("sample", {"weights": input_hash(path)}, {"budget": budget, "seed": seed})
    if is_done(out, wanted, overwrite=overwrite):
        return skipped("sample", out)
    began = time.monotonic()
    ids, weights = load_ids(folder), np.asarray(load_array(path))
    rows, probabilities = sample(weights, budget, seed)
    with artifacts.whole_files(beside, out, manifest_path(out)) as (chances, file, record):
        for one, probability in zip(ids, probabilities.tolist(), strict=True):
            chances.write(orjson.dumps({"id": one, "probability": probability}) + b"\n")
        file.writelines(f"{ids[r]}\n".encode() for r in rows)
        record.write(sealed(wanted, {out.name: file, beside.name: chances}))
    certain = int((probabilities >= 1).sum())
    said("sample", f"{len(rows):,} of {len(ids):,} openings, {certain:,} of them for certain", out, began)
    print(f"  every opening's inclusion probability → {beside}")


def compute_offline(prompts: Path, out: Path, embed: EmbedOptions, density: DensityOptions, how: RunOptions) -> None:
    """Items → embeddings and weights in one folder, the embeddings kept apart so that other weights are cheap."""
    embed_folder(prompts, out / "embeddings", embed, how)
    weigh_folder(out / "embeddings", out, density, how, prompts)


def run(pairs: Path, out: Path, embed: EmbedOptions, density: DensityOptions, how: RunOptions) -> None:
    """Pairs → weights: OUT/prefixes_all.jsonl, OUT/embeddings and OUT/density."""
    prefixes = out / "prefixes_all.jsonl"
    make_prefixes(pairs, prefixes, how)
    embed_folder(prefixes, out / "embeddings", embed, RunOptions(0, how.overwrite, how.device))
    weigh_folder(out / "embeddings", out / "density", density, how, prefixes)


def write_demo(out: Path, pairs: int, seed: int, overwrite: bool) -> None:
    """A file of demo pairs, each with its known topic."""
    from kat.demo.grammar import demo_pairs

    wanted = manifest("demo-data", {}, {"pairs": pairs, "seed": seed})
    if is_done(out, wanted, overwrite=overwrite):
        return skipped("demo-data", out)
    began = time.monotonic()
    with artifacts.whole_files(out, manifest_path(out)) as (file, record):
        for pair in demo_pairs(pairs, seed):
            file.write(orjson.dumps(pair) + b"\n")
        record.write(sealed(wanted, {out.name: file}))
    said("demo-data", f"{pairs:,} pairs", out, began)


def _checked(data: Path, how: RunOptions, bad: IO[bytes]) -> ItemFile:
    from kat.data.prompts import ItemFile

    items = ItemFile(data, how.max_bad_rows, bad.write)
    bad.flush()  # a full disk is noticed before the long work, not after
    return items


def _check_unchanged(data: Path, out: Path, wanted: dict[str, Any]) -> None:
    """Raise InputError if the items are not those that the run began with; its work cannot be trusted then."""
    if input_hash(data) != wanted["inputs"]["items"]:
        remove(checkpoint_path(out))
        raise InputError(f"{data} changed while it was embedded; nothing was written. Give the same command again.")


@contextlib.contextmanager
def _embedded(
    items: ItemFile, out: Path, wanted: dict[str, Any], embed: EmbedOptions, how: RunOptions
) -> Iterator[tuple[EmbeddingCheckpoint, dict[str, Any]]]:
    """The items' vectors and lengths, all of them computed, in the folder of unfinished work; and the model's facts."""
    from kat.embedding.checkpoint import EmbeddingCheckpoint
    from kat.embedding.encoder import cached_encoder

    encoder = cached_encoder(embed, how.device)
    begun = checkpoint_manifest(wanted, f"{encoder.engine.precision} on {encoder.engine.device.type}")
    shape = (len(items), encoder.engine.dimension)
    with EmbeddingCheckpoint(checkpoint_path(out), begun, shape, overwrite=how.overwrite) as work:
        if work.resumed:
            print(f"embed     goes on with what {work.folder} holds")
        encoder.encode_into(work, items, progress=True)
        yield work, dict(encoder.meta())


def _embed_manifest(data: Path, embed: EmbedOptions, how: RunOptions) -> dict[str, Any]:
    from dataclasses import asdict

    from kat.models.loading import settings_digest, weights_digest
    from kat.models.sources import resolve

    source = resolve(embed.source, allow_network=embed.allow_network)
    hashes = {
        "items": input_hash(data),
        "model": weights_digest(source),
        "model_settings": settings_digest(source),
    }
    return manifest("embed", hashes, asdict(embed) | {"model": embed.source, "max_bad_rows": how.max_bad_rows})


def _embeddings_hash(source: Path) -> str:
    if source.is_dir():
        if not (source / "embeddings.npy").is_file():
            raise InputError(f"{source} holds no embeddings.npy. Make it with: kat embed ITEMS --out {source}")
        return sha256_file(source / "embeddings.npy")
    return input_hash(source)


def _embeddings_into(source: Path, folder: Path, embeddings: Embeddings, metric: str) -> None:
    import numpy as np

    from kat.neighbors.find import normalised

    if source.is_dir():
        artifacts.link_or_copy(source / "embeddings.npy", folder / "embeddings.npy")
    else:
        vectors = normalised(embeddings.vectors) if metric == "cosine" else embeddings.vectors
        np.save(folder / "embeddings.npy", vectors, allow_pickle=False)


def _items_path(source: Path, origin: dict[str, Any]) -> Path | None:
    where = origin.get("items_path")
    return source / where if where and (source / where).is_file() else None


def _checked_items(source: Path, items: Path | None, how: RunOptions) -> Path | None:
    """The file that was embedded: the one given, which must have the same ids, or the one that the folder names."""
    from kat.data.prompts import read_items
    from kat.density.mapping import compare_ids
    from kat.embedding.storage import load_embeddings

    embeddings, origin = load_embeddings(source)
    if items is None:
        return _items_path(source, origin)
    compare_ids(list(embeddings.ids), read_items(items, how.max_bad_rows).ids, str(source), str(items))
    return items


def _openings(items: Path | None, weights: Weights) -> dict[str, str] | None:
    from kat.reports.console.density import heaviest_ids

    return None if items is None else _texts(items, heaviest_ids(weights))


def _texts(items: Path, ids: list[str]) -> dict[str, str]:
    """The openings of some ids."""
    from kat.data.prompts import read_items

    wanted = set(ids)
    return {p.id: p.opening for p in read_items(items, "all").prefixes if p.id in wanted}


def _lengths(embeddings: Embeddings):
    """[N, 2] int32: tokens of the text, tokens lost; −1 where they are not known."""
    import numpy as np

    if embeddings.tokens is None:
        return np.full((len(embeddings), 2), -1, np.int32)
    return np.stack([embeddings.tokens, embeddings.lost], 1)


def _said_embedded(lines: list[str], items: ItemFile, out: Path, began: float) -> None:
    said_rejected(out, items.bad)
    said("embed", lines[0], out, began)
    for line in lines[1:]:
        print(line)
