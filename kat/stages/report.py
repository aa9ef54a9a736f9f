"""Everything that a run holds → one page that shows it, and the map as a table beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.artifacts import first_damage, read_manifest
from kat.config import recorded
from kat.errors import MismatchError, MissingExtraError, OutputError, translated
from kat.report_config import ReportOptions
from kat.reports.blocks import Chart, Report
from kat.reports.drawing import why_not_drawn
from kat.run_folder import REPORT, WEIGHTS, RunFolder, map_path
from kat.stages.report_contents import ReportContents, installed_versions, page_code
from kat.stages.report_inputs import ReportInputs
from kat.stages.stage import stage


def make_report(folder: Path, out: Path | None, options: ReportOptions, *, overwrite: bool = False) -> Path:
    """Write OUT, a page that needs nothing else, RUN/report.html by default, and its map as a table; return OUT.

    An older report of the same run in its place is replaced, if nobody changed it. Raises InputError for a folder
    without weights, MismatchError for files that do not belong together or changed,
    MissingExtraError for figures that nothing here can draw.
    """
    run = RunFolder(folder)
    out = out or run.root / REPORT
    if options.figures is not None and (why := why_not_drawn()) is not None:
        raise MissingExtraError(f"--figures: {why}")
    held = ReportInputs(run, options.topic)
    contents = ReportContents(held, options.seed)
    inputs, told = (
        held.stage_inputs(installed_versions() | {"page": page_code()}),
        recorded(options) | {"run": str(run.root)},
    )
    with stage(
        "report",
        out,
        inputs=inputs,
        options=told,
        beside={"map": map_path},
        suffix=".html",
        apart=run.read_apart,
        overwrite=overwrite or _is_own(out, run),
    ) as job:
        if not job.done:
            from kat.projection.map_file import write_map
            from kat.reports.html.page import render

            points = contents.points
            remedy = "Make what it belongs to again, with --overwrite."
            with translated(MismatchError, f"{run.path} holds a file of another form than this version writes", remedy):
                page = render(Report(run.root.resolve().name, contents.sections, points))
            job.file.write(page)
            places = points.ids, points.texts, points.xy
            write_map(job.beside("map"), *places, neighbors=held.neighbors, columns=contents.columns)
            job.say(f"{points.unit.count(len(points))}, {len(page) / 1e6:.1f} MB", [f"  {note}" for note in held.notes])
    if options.figures is not None:
        _write_figures(contents, options.figures, inputs, told, overwrite=overwrite)
    return out


def _is_own(out: Path, run: RunFolder) -> bool:
    """Whether there is a report of this run: it tells nothing that is not in the run.

    Raises OutputError for one that somebody changed.
    """
    manifest = read_manifest(out)
    if manifest is None or manifest["stage"] != "report":
        return False
    if (damage := first_damage(out, manifest)) is not None:
        raise OutputError(f"{out}: {damage}. Add --overwrite to replace it, or name another output.")
    weights = run.density / WEIGHTS
    where = (manifest.get("inputs_at") or {}).get(ReportInputs(run).name_of(weights))
    folder = out if out.is_dir() else out.parent
    return isinstance(where, str) and (folder / where).resolve() == weights.resolve()


def _write_figures(
    contents: ReportContents, out: Path, inputs: Mapping[str, Any], told: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write every chart of the page and its map to a folder, as PNG and SVG files."""
    run = contents.held.run
    with stage(
        "report",
        out,
        inputs=inputs,
        options=told,
        files=("map.png", "map.svg"),
        apart=run.read_apart,
        alone=True,
        overwrite=overwrite or _is_own(out, run),
    ) as job:
        if job.done:
            return
        from kat.reports.chart_figures import draw_chart, draw_map

        draw_map(contents.points, job.folder)
        charts = [block for section in contents.sections for block in section.blocks if isinstance(block, Chart)]
        for chart in charts:
            draw_chart(chart, job.folder)
        job.say(f"the map and {len(charts)} charts, as PNG and SVG")
