"""Pairs → weights: prefixes, embed and density, one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kat.atomic import new_folder
from kat.config import MAX_LINE_BYTES, DensityOptions, EmbedOptions, ReadOptions, RunOptions
from kat.errors import KatError
from kat.executor_config import ExecutorOptions
from kat.executors.launch import launching
from kat.inputs import Inputs, input_files
from kat.locks import locked
from kat.models.sources import resolve
from kat.report_config import ReportOptions
from kat.run_folder import DENSITY, EMBEDDINGS, PREFIXES
from kat.run_log import logged
from kat.stages.contexts import measure_contexts
from kat.stages.density import weigh_openings
from kat.stages.embed import embed_folder
from kat.stages.prefixes import make_prefixes
from kat.stages.report import make_report
from kat.terminal import note, shell_word


def run(
    pairs: Inputs,
    out: Path,
    embed: EmbedOptions,
    density: DensityOptions,
    run_options: RunOptions,
    *,
    reading: ReadOptions = ReadOptions(),
    report: bool = False,
    executor: ExecutorOptions = ExecutorOptions(),
) -> bool:
    """Write OUT/prefixes_all.jsonl, OUT/embeddings and OUT/density, each skipped where it is already done.

    With `report` OUT/report.html too; return whether it is there. What keeps it from being written is said, and is no
    failure of the run.
    """
    input_files(pairs)  # a missing file is said before a model is looked for, and that before all pairs are read
    resolve(embed.source, allow_network=embed.allow_network)
    reading = reading.within(run_options)
    # Bad rows are those of the pairs: a prefixes file of kat's own has none, nor a line that is too long.
    most = max(run_options.max_line_bytes, MAX_LINE_BYTES)
    own = replace(run_options, max_bad_rows=RunOptions.max_bad_rows, max_line_bytes=most)
    with new_folder(out), locked(out), logged(out):  # one run at a time, from its first part to its last
        make_prefixes(pairs, out / PREFIXES, run_options, reading=reading)
        with launching(executor, run_options.device) as launcher:
            embed_folder(out / PREFIXES, out / EMBEDDINGS, embed, own, launcher=launcher)
            weighing = replace(run_options, max_line_bytes=most)
            weigh_openings(out / EMBEDDINGS, out / DENSITY, density, weighing, out / PREFIXES, launcher=launcher)
        measure_contexts(pairs, out, embed, reading, run_options)
        return report and _reported(out)


def _reported(out: Path) -> bool:
    try:
        make_report(out, None, ReportOptions())
    except Exception as error:  # whatever it is: the weights are there and good
        reason = str(error) if isinstance(error, KatError) else f"{type(error).__name__}: {error}"
        note(
            f"kat: note: no report: {reason}",
            f"kat: note: the run is complete; try again: kat report {shell_word(str(out))}",
        )
        return False
    return True
