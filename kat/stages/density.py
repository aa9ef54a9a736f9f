"""Embeddings → k-NN density and weights, in a folder that explains itself: rare weighs more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.arrays import compare_ids
from kat.artifacts import check_vouched, json_bytes, link_or_copy, read_manifest
from kat.atomic import new_folder
from kat.config import DensityOptions, EmbedOptions, RunOptions, recorded, recorded_as
from kat.data.columns import line_limit_of
from kat.data.headings import Heading, headings
from kat.data.prompt_texts import inside_of
from kat.data.prompts import PromptFile, check_prompts
from kat.density.storage import check_weight_file
from kat.density.summary import heaviest_ids, weight_metadata
from kat.embedding.elsewhere import NUMBERED
from kat.embedding.storage import check_embeddings, load_embeddings, vectors_path
from kat.errors import InputError, MismatchError, OutputError
from kat.inputs import Inputs, input_files, input_text
from kat.locks import locked
from kat.neighbors.storage import check_neighbors
from kat.records import CONTEXT, OPENING
from kat.reports.console.density import explanation_lines, left_out_text, weight_lines, weight_summary
from kat.run_folder import (
    DENSITY,
    DENSITY_FILES,
    EMBEDDINGS,
    IDS,
    LENGTHS,
    LOG_DENSITY,
    METADATA,
    NEIGHBORS,
    VECTORS,
    WEIGHTS,
    RunFolder,
    load_ids,
    named_inputs,
    named_items,
    relatives,
)
from kat.stages.embed import embed_folder, unit_of
from kat.stages.neighbors import apart_of, find_neighbors, load_usable
from kat.stages.stage import say, stage

if TYPE_CHECKING:
    from kat.density.weights import Weights
    from kat.executors.base import Launcher
    from kat.records import Embeddings, Prefix


def weigh_openings(
    source: Path,
    out: Path,
    options: DensityOptions,
    run_options: RunOptions,
    prompts: Inputs | None = None,
    *,
    launcher: Launcher | None = None,
) -> None:
    """Write the weights of embeddings (a folder or a file), and what they were made from, to a folder.

    `prompts`, the file that was embedded, gives the heaviest openings their text; an embeddings folder knows its own.
    """
    _check_container(source, out)
    prompts = _checked_prompts(source, prompts, run_options)
    find_neighbors(source, out / NEIGHBORS, options, run_options, launcher)
    with stage(
        "density",
        out,
        inputs={"embeddings": vectors_path(source)},
        options=recorded(options),
        files=DENSITY_FILES,
        apart=apart_of(source, out),
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        embeddings, origin = load_usable(source, options, run_options)
        weights = weights_of(embeddings, out / NEIGHBORS, options)
        heaviest = heaviest_ids(weights)
        openings = _openings(prompts, heaviest, origin)
        if openings is not None and (missing := [one for one in heaviest if one not in openings]):
            raise MismatchError(
                f"{input_text(prompts or ())} has no prompt with the id {missing[0]!r}, which {source} has. "
                "Name the file that was embedded: --prompts_path FILE"
            )
        meta = weight_metadata(embeddings, weights, openings)
        inputs = origin.get("inputs", {})
        meta |= {"input": {"path": _relatives(prompts, out), **inputs}, "kat_version": job.manifest["kat_version"]}
        left_out: dict[str, str] = origin.get("left_out", {})
        _write(job.folder, None if left_out else source, embeddings, weights, meta)
        if left_out:
            job.facts["left_out"] = left_out
            say("density", left_out_text(left_out))
        if source.is_dir() and not origin.get("stage"):
            say("density", f"{source} has no manifest: it is taken as it is, as embeddings from elsewhere")
        if origin.get("ids") == NUMBERED:
            say("density", f"{source} holds no ids, and no {IDS} is beside it: ids are row numbers from 0")
        job.facts["items_path"] = _relatives(prompts, out)
        job.facts["items_sha256"] = inputs.get("items")
        if inside := inside_of(origin):
            job.facts["inside_text"] = list(inside)
        if prompts is None and (where := origin.get("items_path")):
            gone = input_text(named_inputs(source, where)) if source.is_dir() else where
            say("density", f"{gone} is not there: the heaviest openings have no text")
        if (unit := origin.get("unit") or unit_of(prompts)) != "opening":
            job.facts["unit"] = unit
        job.say(
            weight_summary(len(weights), meta["k"]),
            weight_lines(meta, CONTEXT if unit == "context" else OPENING),
        )
        if meta["k"] < options.k:
            are = "is only 1 text" if len(weights) == 1 else f"are only {len(weights):,} texts"
            say("density", f"k is {meta['k']}, not {options.k}: there {are}.")


def _check_container(source: Path, out: Path) -> None:
    """Raise OutputError for a folder that other commands would go on reading as something else than these weights.

    A folder with embeddings/ inside may be one of weights, as the origin's is; not one whose weights are in density/,
    for those are read, nor one that is itself an output of another command, whose manifest would be replaced.
    """
    inside = out / DENSITY
    if read_manifest(inside) is not None or (inside / WEIGHTS).is_file():
        raise OutputError(
            f"{out} has its weights in {inside}, and others beside them would never be read. "
            f"Replace those: kat density {source} --out {inside} --overwrite, or name another output."
        )
    other = (read_manifest(out) or {}).get("stage")
    if other not in (None, "density"):
        raise OutputError(
            f"{out} is an output of kat {other}, which weights would replace. "
            f"Name a folder of their own: kat density {source} --out {out / DENSITY}"
        )


def weights_of(embeddings: Embeddings, neighbors: Path, options: DensityOptions) -> Weights:
    """Weigh embeddings whose neighbours are on disk."""
    from kat.density.estimators import estimate_density
    from kat.density.weights import weigh
    from kat.neighbors.storage import load_neighbors

    density = estimate_density(load_neighbors(neighbors, embeddings), options.k, options.estimator)
    return weigh(density, options.ess, options.cap, options.temperature, options.max_temperature)


def density_options(run: RunFolder) -> DensityOptions:
    """Return the options that a run's weights were made with. Raises InputError if this version lacks one of them."""
    kept = run.density_manifest["options"]
    known = recorded(DensityOptions())
    if unknown := sorted(set(kept) - set(known)):
        raise InputError(f"{run.density} was made with {', '.join(unknown)}, which this version of kat does not have.")
    return recorded_as(DensityOptions, kept, run.density)


def explain(folder: Path, opening: str) -> list[str]:
    """Say in lines why an opening of a run, or of a folder of weights, weighs what it weighs."""
    run = RunFolder(folder)
    embeddings, _ = load_embeddings(run.density)
    weights = weights_of(embeddings, run.neighbors, density_options(run))
    try:
        evidence = weights.explain(opening)
    except KeyError as error:
        raise InputError(error.args[0]) from None
    shown = [opening, *(i for i, _ in evidence["nearest"])]
    prompts = named_items(run.density, run.density_manifest)
    return explanation_lines(evidence, _openings(prompts, shown, run.density_manifest) or {}, run.words)


def compute_offline(
    prompts: Path,
    out: Path,
    embed: EmbedOptions,
    density: DensityOptions,
    run_options: RunOptions,
    *,
    launcher: Launcher | None = None,
) -> None:
    """Write embeddings and weights to one folder, the embeddings kept apart so that other weights are cheap."""
    with new_folder(out), locked(out):
        embed_folder(prompts, out / EMBEDDINGS, embed, run_options, launcher=launcher)
        weigh_openings(out / EMBEDDINGS, out, density, run_options, prompts, launcher=launcher)


def _write(folder: Path, source: Path | None, embeddings: Embeddings, weights: Weights, meta: dict[str, Any]) -> None:
    """Write the files of a folder of weights; the vectors are those of a folder `source`, or saved."""
    from kat.neighbors.find import normalised

    if source and source.is_dir():
        link_or_copy(source / VECTORS, folder / VECTORS)
    else:
        unit = meta["metric"] == "cosine"
        vectors = normalised(embeddings.vectors) if unit else np.asarray(embeddings.vectors, np.float32)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
    (folder / IDS).write_bytes(orjson.dumps(list(embeddings.ids)))
    assert weights.density is not None
    arrays = {WEIGHTS: weights.values, LOG_DENSITY: weights.density.log_values, LENGTHS: _lengths(embeddings)}
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=False)
    (folder / METADATA).write_bytes(json_bytes(meta))


def _lengths(embeddings: Embeddings) -> np.ndarray:
    """[N, 2] int32: tokens of the text, tokens lost; −1 where they are not known."""
    if embeddings.tokens is None or embeddings.lost is None:
        return np.full((len(embeddings), 2), -1, np.int32)
    return np.stack([embeddings.tokens, embeddings.lost], 1)


def _checked_prompts(source: Path, prompts: Inputs | None, run_options: RunOptions) -> Inputs | None:
    """The file that was embedded: the one given, which must have the same ids, or the one that the folder names."""
    embeddings, origin = load_embeddings(source)
    if prompts is None:
        return named_items(source, origin)
    allowed, most = run_options.max_bad_rows, run_options.max_line_bytes
    file = PromptFile(prompts, allowed, inside=inside_of(origin), max_line_bytes=most)
    compare_ids(embeddings.ids, file.ids(), str(source), input_text(prompts))
    return prompts


def _relatives(prompts: Inputs | None, folder: Path) -> str | list[str] | None:
    return None if prompts is None else relatives(prompts, folder)


def _openings(prompts: Inputs | None, ids: Iterable[str], manifest: Mapping[str, Any]) -> dict[str, Heading] | None:
    """What to show of some ids; None if the file is not known."""
    return None if prompts is None else headings(prompts_of(prompts, ids, manifest))


def prompts_of(prompts: Inputs, ids: Iterable[str], manifest: Mapping[str, Any]) -> Iterator[Prefix]:
    """Return the prompts of some ids in the file that was embedded, read as the manifest of the weights says.

    Raises InputError for a file that cannot be read, MismatchError for one that is not what its manifest says.
    """
    for file in input_files(prompts):
        check_vouched(file.path)
    shown = set(ids)
    texts = PromptFile(prompts, "all", inside=inside_of(manifest), max_line_bytes=line_limit_of(manifest))
    return (prompt for prompt in texts if prompt.id in shown)


def prove(output: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    """Check a folder of weights: what embeddings promise, weights of mean 1, and the neighbours inside."""
    manifest = run.manifest(output) or {}
    ids = load_ids(output, vouched=False)
    unit = (manifest.get("options") or {}).get("metric") != "euclidean"
    lines = [check_embeddings(output, ids, unit=unit), check_weight_file(output, ids)]
    return [*lines, *_prove_neighbors(output, ids, run), *check_prompts(output, ids, manifest, prompts)]


def _prove_neighbors(output: Path, ids: list[str], run: RunFolder) -> list[str]:
    folder = output / NEIGHBORS
    if not folder.is_dir():
        return ["  no neighbours are kept here; weights cannot be explained"]
    theirs, ours = run.manifest(folder), run.manifest(output) or {}
    if theirs is None:
        raise MismatchError(f"{folder} has no manifest: the search did not finish. Run the same command again.")
    for part in ("inputs", "options"):
        one, other = theirs.get(part) or {}, ours.get(part) or {}
        for key in set(one) & set(other) - {"k"}:
            if one[key] != other[key]:
                raise MismatchError(f"{folder} was made with another {key} than the weights beside it. Run it again.")
    return [check_neighbors(folder, ids)]
