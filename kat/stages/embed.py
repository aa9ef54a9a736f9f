"""Prefixes or prompts → unit vectors, in a folder or one .pt file. A stopped run goes on where it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.artifacts import json_list, link_or_copy, readable_manifest
from kat.atomic import saving
from kat.config import EmbedOptions, RunOptions, recorded
from kat.data.prompt_texts import InsidePrompts, look_inside
from kat.data.prompts import PromptFile, check_prompts, good_prompts
from kat.embedding.boilerplate import Boilerplate, WithoutBoilerplate, choose_boilerplate
from kat.embedding.checkpoint import EmbeddingCheckpoint, checkpoint_path, discard, remove
from kat.embedding.storage import check_embeddings, check_vectors, load_embeddings
from kat.errors import InputError
from kat.inputs import Inputs, input_files, input_paths, input_text
from kat.journal import computing
from kat.reports.console.embed import boilerplate_lines, embed_lines, inside_lines, unread_lines
from kat.run_folder import EMBEDDING_FILES, IDS, LENGTHS, VECTORS, RunFolder, load_ids, relatives
from kat.stages.stage import Job, input_hash, say, stage

if TYPE_CHECKING:
    import numpy as np

    from kat.executors.base import Launcher


@dataclass(frozen=True)
class _Embedded:
    """The checkpoint that holds all vectors of the prompts, and the facts of the model."""

    prompts: WithoutBoilerplate
    checkpoint: EmbeddingCheckpoint
    model: Mapping[str, Any]
    unread: Mapping[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """[N, 2] int32: tokens of each text, tokens lost."""
        return self.checkpoint.lengths


def embed(
    data: Inputs, out: Path, options: EmbedOptions, run_options: RunOptions, *, launcher: Launcher | None = None
) -> None:
    """Write OUT: one .pt file if that is its suffix, else a folder. With a launcher a cluster's workers compute."""
    write = embed_file if out.suffix == ".pt" else embed_folder
    write(data, out, options, run_options, launcher=launcher)


def embed_file(
    data: Inputs, out: Path, options: EmbedOptions, run_options: RunOptions, *, launcher: Launcher | None = None
) -> None:
    """Write one .pt file {"ids": [str], "emb": float32 [N, D]}."""
    inside = look_inside(data, run_options.max_line_bytes) if options.inside_text == "read" else InsidePrompts()
    boilerplate = _boilerplate(data, options, inside, run_options.max_line_bytes)
    with _stage(data, out, options, run_options, boilerplate, inside=inside) as job:
        if not job.done:
            reading = (boilerplate, inside)
            with _embedded(data, job, options, run_options, reading, launcher=launcher) as embedded:
                _write_file(job, embedded)
    discard(job.out, job.manifest)


def embed_folder(
    data: Inputs, out: Path, options: EmbedOptions, run_options: RunOptions, *, launcher: Launcher | None = None
) -> None:
    """Write a folder of embeddings.npy, ids.json and lengths.npy ([N, 2]: tokens of the text, tokens lost)."""
    inside = look_inside(data, run_options.max_line_bytes) if options.inside_text == "read" else InsidePrompts()
    boilerplate = _boilerplate(data, options, inside, run_options.max_line_bytes)
    with _stage(data, out, options, run_options, boilerplate, inside=inside, files=EMBEDDING_FILES) as job:
        if not job.done:
            reading = (boilerplate, inside)
            with _embedded(data, job, options, run_options, reading, launcher=launcher) as embedded:
                _write_folder(job, embedded)
                job.facts["items_path"] = relatives(data, job.out)
                job.facts["bad_rows"] = job.bad_rows
    discard(job.out, job.manifest)


def unit_of(prompts: Inputs | None) -> str:
    """Return what prompts stand for, as the manifests of their files say: openings unless told."""
    files = [file.path for file in input_files(prompts)] if prompts is not None else []
    manifests = [readable_manifest(file) or {} for file in files]
    units = {str((manifest.get("options") or {}).get("unit", "opening")) for manifest in manifests}
    if len(units) > 1:
        raise InputError(f"{input_text(prompts or ())} holds openings and contexts. Embed those of one unit together.")
    return units.pop() if units else "opening"


def _boilerplate(data: Inputs, options: EmbedOptions, inside: InsidePrompts, max_line_bytes: int) -> Boilerplate:
    """What is left out of the texts: what most of them share, or what was left out of other embeddings."""
    return choose_boilerplate(options, good_prompts(data, inside.names, max_line_bytes))


def _stage(
    data: Inputs,
    out: Path,
    options: EmbedOptions,
    run_options: RunOptions,
    boilerplate: Boilerplate,
    inside: InsidePrompts,
    files: tuple[str, ...] = (),
) -> contextlib.AbstractContextManager[Job]:
    from kat.models.digests import model_inputs
    from kat.models.sentence_transformer import sentence_settings
    from kat.models.sources import resolve

    input_hash(data)  # a missing file is said before a checkpoint is converted or a model looked for
    source = resolve(options.source, allow_network=options.allow_network)
    reading = sentence_settings(source.path).reading(options.prompt)
    return stage(
        "embed",
        out,
        inputs={"items": input_paths(data), **model_inputs(source)},
        options=recorded(options, run_options)
        | {"model": options.source}
        | ({"boilerplate": boilerplate.as_dict()} if boilerplate else {})
        | ({"inside_text": list(inside.names)} if inside.names else {})
        | ({"reading": reading} if reading else {}),
        files=files,
        apart=[source.path],
        rejects=True,
        overwrite=run_options.overwrite,
    )


@contextlib.contextmanager
def _embedded(
    data: Inputs,
    job: Job,
    options: EmbedOptions,
    run_options: RunOptions,
    reading: tuple[Boilerplate, InsidePrompts],
    *,
    launcher: Launcher | None,
) -> Iterator[_Embedded]:
    """Compute what the checkpoint lacks; it holds the vectors and lengths of all prompts then."""
    from kat.embedding.encoder import open_encoder
    from kat.embedding.self_check import self_check

    boilerplate, inside = reading

    allowed, most = run_options.max_bad_rows, run_options.max_line_bytes
    rows = PromptFile(data, allowed, job.rejected.write, inside.names, max_line_bytes=most)
    prompts = WithoutBoilerplate(rows, boilerplate)
    job.rejected.flush()  # a full disk is noticed before the long work, not after
    self_check(options)
    folder = checkpoint_path(job.out)
    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(open_encoder(options, run_options.device, launcher))
        computed = "{precision} on {device}".format(**encoder.ways[0])
        if launcher is not None:  # other machines may come the next time: theirs must not be mixed with these
            kind = "{instructions}, torch {torch}, {threads} threads".format(**encoder.ways[0])
            computed = "by mixed workers" if launcher.mixed else f"{computed}, {kind}"
        started, shape = computing(job.manifest, computed), (len(prompts), encoder.engine.dimension)
        checkpoint = stack.enter_context(EmbeddingCheckpoint(folder, started, shape, overwrite=run_options.overwrite))
        if checkpoint.resumed:
            say("embed", f"goes on with what {checkpoint.folder} holds")
        unread = encoder.encode_into(checkpoint, prompts, progress=True)
        embedded = _Embedded(prompts, checkpoint, dict(encoder.meta()), unread)
        job.bad_rows = rows.bad
        yield embedded
        if job.changed_input():
            remove(folder)  # its work cannot be trusted
        job.all_read()
        if unread:
            job.facts["unread"] = dict(unread)
        if len(checkpoint.ways) > 1:
            job.facts["workers"] = checkpoint.ways
        if (unit := unit_of(data)) != "opening":
            job.facts["unit"] = unit  # the prefixes may move; what their vectors are of stays known
        summary, *details = embed_lines(embedded.lengths, embedded.model, rows.made_ids)
        texts = inside_lines(inside.notes, rows.without)
        job.say(summary, [*details, *texts, *boilerplate_lines(boilerplate, prompts.changed), *unread_lines(unread)])


def _write_file(job: Job, embedded: _Embedded) -> None:
    import torch

    ids, lost = [prompt.id for prompt in embedded.prompts], embedded.lengths[:, 1].tolist()
    with saving(job.out):
        torch.save({"ids": ids, "emb": torch.from_numpy(embedded.checkpoint.vectors)}, job.file)
    job.facts["model"] = embedded.model
    job.facts["tokens_lost"] = {i: n for i, n in zip(ids, lost, strict=True) if n}


def _write_folder(job: Job, embedded: _Embedded) -> None:
    for name in (VECTORS, LENGTHS):
        link_or_copy(embedded.checkpoint.folder / name, job.folder / name)
    with (job.folder / IDS).open("wb") as file:
        file.writelines(json_list(prompt.id for prompt in embedded.prompts))
    job.facts["model"] = embedded.model


def prove(output: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    """Check a folder of embeddings or a .pt file: ids, unit length, and the order of the file that was embedded."""
    if output.is_dir():
        ids = load_ids(output, vouched=False)
        line = check_embeddings(output, ids)
    else:
        embeddings, _ = load_embeddings(output, vouched=False)
        ids = list(embeddings.ids)
        line = check_vectors(output, embeddings.vectors, ids)
    return [line, *check_prompts(output, ids, run.manifest(output) or {}, prompts)]
