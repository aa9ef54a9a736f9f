"""Pair weights, and the pairs they were made of → a folder that a trainer reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kat.config import ExportWeightsOptions, recorded
from kat.data.columns import reading_of
from kat.data.pairs import PairReader
from kat.errors import InputError
from kat.inputs import HashedInput, Inputs, input_hash, input_text, is_there
from kat.integrations.card import CARD, write_card
from kat.integrations.contexts import Contents
from kat.integrations.exports import Export
from kat.integrations.rows import PARTS, WeighedPair, weighed_pairs
from kat.pair_weights.storage import read_pair_weights
from kat.plugins import EXPORTS, load
from kat.reports.console.export_weights import export_summary, file_lines
from kat.run_folder import RunFolder, named_inputs, weigh_again
from kat.stages.stage import labelled, stage


def export_weights(
    folder: Path, out: Path, options: ExportWeightsOptions, pairs: Inputs | None, overwrite: bool
) -> None:
    """Write RUN/pair_weights.parquet (or such a file itself) and its pairs in the format of a trainer.

    Raises InputError for a source that changed since the weights were made.
    """
    export: Export = load(EXPORTS, options.to)
    run = RunFolder(folder)
    path = run.pair_weights()
    if not path.is_file():
        raise InputError(f"{path} does not exist. Make it with: {weigh_again(path)}")
    source, digest = source_of_weights(run, path, pairs)
    with stage(
        "export-weights",
        out,
        inputs={"pair_weights": path, "pairs": HashedInput(source, digest)},
        options=recorded(options),
        files=(export.first_file, CARD) if export.data_sets else (export.first_file,),
        overwrite=overwrite,
    ) as job:
        if job.done:
            return
        table = read_pair_weights(path)
        reading = reading_of(run.manifest(path) or {})

        def weighed() -> Iterator[WeighedPair]:
            return weighed_pairs(PairReader(source, "all", options=reading), table)

        contents = export.write(weighed, table, job.folder, options.seed)
        write_card(job.folder, export)
        trains, validates = (int((table.split == part).sum()) for part in PARTS)
        details = [*file_lines(out, (p.name for p in job.folder.iterdir())), *_met(export, contents)]
        summary = export_summary(trains, validates, options.to)
        job.say(summary, [*details, labelled("next", export.next_step.format(out=out))])


def _met(export: Export, contents: Contents | None) -> Iterator[str]:
    """Yield what was met in the conversations that a reader of the files should know, each with its count."""
    if contents is None:
        return
    for name, count in contents.left_out.items():
        if count:
            yield f"  {count:,} pairs are left out of {name}; {export.limits[name]}"
    several = [count for counts in contents.contexts.values() for count in counts.values() if count > 1]
    if several and any(one.name == "prompts" for one in export.data_sets):
        yield f"  {len(several):,} openings have {sum(several):,} contexts, all exported: an opening's share its weight"
    if contents.rich:
        note = export.notes.get("rich", "parquet columns of them are JSON")
        yield f"  messages hold more than role and content: {note}"
    if contents.tools and "tools" in export.notes:
        yield f"  {contents.tools:,} pairs have tools, in the column tools; {export.notes['tools']}"
    if contents.margin:
        note = f"; {export.notes['margin']}" if "margin" in export.notes else ""
        yield f"  {contents.margin:,} pairs have a margin{note}"
    if contents.prefill:
        note = export.notes.get("prefill", "see the trainer's documentation")
        yield f"  {contents.prefill:,} contexts end on an assistant's turn, kept as it is; {note}"


def source_of_weights(run: RunFolder, path: Path, pairs: Inputs | None) -> tuple[Inputs, str]:
    """Return the pairs that the weights were made from, and their hash. Raises InputError if they are others."""
    manifest = run.manifest(path)
    if manifest is None:
        raise InputError(
            f"{path} has no manifest: the run that wrote it did not finish. Make it again: {weigh_again(path)}"
        )
    if pairs is None and "pairs_path" not in manifest:
        raise InputError(f"{path} does not say which pairs it was made from; name them with --pairs_path.")
    source = pairs or named_inputs(path.parent, manifest["pairs_path"])
    if not is_there(source):
        raise InputError(
            f"{path} was made from {input_text(source)}, which is not there; name the pairs with --pairs_path."
        )
    digest = input_hash(source)
    if digest != manifest["inputs"].get("pairs"):
        raise InputError(
            f"{input_text(source)} is not the file that {path} was made from. "
            f"Make it again: {weigh_again(path)} --overwrite"
        )
    return source, digest
