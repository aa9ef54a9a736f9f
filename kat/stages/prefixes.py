"""Pairs → one prefix for each distinct opening."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kat.artifacts import json_bytes, read_manifest
from kat.config import ReadOptions, RunOptions
from kat.data.columns import reading_of, recorded_reading
from kat.data.openings import OpeningStats, collect_openings
from kat.data.pairs import PairReader, PairStats
from kat.data.prefix_file import prefix_line
from kat.errors import OptionError
from kat.inputs import Inputs, input_paths
from kat.records import CONTEXT, OPENING
from kat.reports.console.prefixes import prefix_lines, prefix_summary
from kat.run_folder import relatives, stats_path
from kat.stages.stage import stage, with_progress


def make_prefixes(pairs_path: Inputs, out: Path, run_options: RunOptions, reading: ReadOptions = ReadOptions()) -> None:
    """Write OUT, OUT's stats.json, and OUT.rejected.jsonl if rows were set aside."""
    reading = reading.within(run_options)
    if not run_options.overwrite:
        _check_unit(out, reading)
    with stage(
        "prefixes",
        out,
        inputs={"pairs": input_paths(pairs_path)},
        options={"max_bad_rows": run_options.max_bad_rows} | recorded_reading(reading),
        beside={"stats": stats_path},
        rejects=True,
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        reader = PairReader(pairs_path, run_options.max_bad_rows, job.rejected.write, reading)
        prefixes, openings = collect_openings(with_progress(reader, "pairs"))
        stats = prefix_stats(reader.stats, openings)
        job.file.writelines(map(prefix_line, prefixes))
        job.beside("stats").write(json_bytes(stats))
        job.facts["pairs_path"] = relatives(pairs_path, out.parent)
        job.bad_rows = reader.stats.bad
        unit = CONTEXT if reading.density_unit == "context" else OPENING
        job.say(prefix_summary(stats, unit), prefix_lines(stats, unit))


def _check_unit(out: Path, reading: ReadOptions) -> None:
    """Raise OptionError if prefixes of another unit are there: to replace them is not what was meant."""
    kept = read_manifest(out) if out.is_file() else None
    if kept is None or kept.get("stage") != "prefixes":
        return
    unit = reading_of(kept).density_unit
    if unit != reading.density_unit:
        raise OptionError(
            f"{out} holds {unit}s, and {reading.density_unit}s were asked for. Add --unit {unit} to go on with it, "
            f"or name another output for {reading.density_unit}s (--overwrite replaces it)."
        )


def prefix_stats(stats: PairStats, openings: OpeningStats) -> dict[str, Any]:
    """Return what `prefixes_all.stats.json` holds; what only some files show stands there only then."""
    sometimes = {
        "inside_text": stats.inside_text,
        "dropped": dict(sorted(stats.dropped.items())),
        "columns_not_read": stats.unread,
    }
    return {name: value for name, value in sometimes.items() if value} | {
        "shape": stats.format,
        "pairs": openings.pairs,
        "openings": openings.openings,
        "share_removed": openings.removed,
        "openings_with_several_contexts": openings.several,
        "bad_rows": stats.bad,
        "kept": dict(sorted(stats.kept.items())),
        "rows_by_source": dict(stats.sources.most_common()),
    }
