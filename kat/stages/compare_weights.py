"""The weights of two runs → how far they agree: what another encoder, k or form of the text would change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.data.headings import Heading, headings
from kat.density.agreement import agreement, in_both
from kat.density.storage import load_weights
from kat.errors import InputError, KatError, MismatchError
from kat.reports.console.compare_weights import agreement_lines
from kat.run_folder import RunFolder, named_items
from kat.stages.density import prompts_of
from kat.stages.stage import labelled
from kat.terminal import tell_figures, width

LEAST = 20
"""Openings in common below which neither a rank correlation nor a tenth says anything."""
_NOT_ASKED = ("max_bad_rows", "batch_size", "least_recall")
"""Options that make no other weights."""


def compare_weights(first: Path, second: Path) -> list[str]:
    """Say in lines how far the weights of two runs, or folders of weights, agree. Nothing is written.

    Raises InputError if there are no weights, MismatchError for weights of different units, for fewer than 20 openings
    in both, and for files that are damaged.
    """
    runs = [_run(path) for path in (first, second)]
    units = [run.words for run in runs]
    if units[0] != units[1]:
        raise MismatchError(
            f"{first} weighs {units[0].several} and {second} {units[1].several}, whose ids are of different things. "
            f"Make both with one unit: kat run PAIRS --out OTHER --unit {units[0].one}"
        )
    (ids, values), (other_ids, other_values) = (load_weights(run.density) for run in runs)
    common = len(in_both(ids, other_ids)[0])
    if common < LEAST:
        raise MismatchError(
            f"{first} and {second} have {units[0].count(common)} in common; below {LEAST} nothing can be said of "
            "their weights. Name two runs of the same pairs."
        )
    compared = agreement(
        dict(zip(ids, values.tolist(), strict=True)), dict(zip(other_ids, other_values.tolist(), strict=True))
    )
    openings, notes = _headings(runs, [one.id for one in (*compared.up, *compared.down)])
    differences = _differences(runs)
    lines = agreement_lines(compared, openings, units[0], differences=differences, width=width())
    tell_figures(agreement=compared, expected_overlap=compared.expected_overlap, differences=differences)
    return [labelled("compare-weights", f"{first} with {second}"), *lines, *notes]


def _run(path: Path) -> RunFolder:
    """The run that a path names. Raises InputError for what is no folder."""
    if not path.is_dir():
        lacking = "is no folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {lacking}. Name a folder of kat run, or of weights.")
    return RunFolder(path)


def _headings(runs: list[RunFolder], ids: list[str]) -> tuple[dict[str, Heading], list[str]]:
    """What to show of some ids, by the first run that knows its texts; and what is wrong with texts, in lines."""
    notes: list[str] = []
    for run in runs:
        manifest = run.manifest(run.density) or {}
        prompts = run.prefixes or named_items(run.density, manifest)
        if prompts is None or not ids:
            continue
        try:
            return headings(prompts_of(prompts, ids, manifest)), notes
        except KatError as error:
            notes.append(f"  no texts from {run.path}: {' '.join(error.lines)}")
    return {}, notes


def _differences(runs: list[RunFolder]) -> dict[str, tuple[Any, Any]]:
    """The options of embedding and density that differ, where both runs tell of them."""
    told = [_options(run) for run in runs]
    return {
        name: (value, told[1][name])
        for name, value in told[0].items()
        if name in told[1] and told[1][name] != value and name not in _NOT_ASKED
    }


def _options(run: RunFolder) -> Mapping[str, Any]:
    """What the vectors and the weights of a run were asked for; of weights alone, what they tell of the encoder."""
    density = run.manifest(run.density) or {}
    try:
        embedded = run.embeddings_manifest["options"]
    except KatError:
        embedded = {}
    return {**embedded, **density.get("options", {})}
