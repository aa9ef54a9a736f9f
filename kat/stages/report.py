"""Everything that a run holds → one page that shows it, and the map as a table beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import first_damage, read_manifest
from kat.config import recorded
from kat.errors import InputError
from kat.folders import entries
from kat.inputs import HashedInput, input_hash
from kat.report_config import ReportOptions
from kat.reports.blocks import Chart, Points, Report, Section
from kat.run_folder import LENGTHS, LOG_DENSITY, REPORT, WEIGHTS, RunFolder, map_path, weigh_again
from kat.run_log import read_log
from kat.stages.report_inputs import ReportInputs
from kat.stages.stage import stage
from kat.statistics import density_bins


def make_report(folder: Path, out: Path | None, options: ReportOptions, *, overwrite: bool = False) -> Path:
    """Write OUT, a page that needs nothing else, RUN/report.html by default, and its map as a table; return OUT.

    An older report of kat's in its place is replaced, if nobody changed it. Raises InputError for a folder without
    weights, MismatchError for files that do not belong together or changed.
    """
    run = RunFolder(folder)
    out = out or run.root / REPORT
    contents = ReportInputs(run, options.topic)
    inputs: dict[str, Any] = dict(contents.files)
    if (pairs := _pairs(run)) is not None:
        inputs["pairs"] = pairs
    with stage(
        "report",
        out,
        inputs=inputs,
        options=recorded(options),
        beside={"map": map_path},
        reads=[path for path in entries(run.density) if path.is_file()],
        apart=run.read_apart,
        overwrite=overwrite or _is_own(out),
    ) as job:
        if not job.done:
            from kat.reports.html.page import render

            points = openings_map(contents, options.seed)
            page = render(Report(run.root.resolve().name, _sections(contents, points), points))
            job.file.write(page)
            _write_map(contents, points, job.beside("map"))
            job.say(f"{len(points):,} openings, {len(page) / 1e6:.1f} MB", [f"  {note}" for note in contents.notes])
    if options.figures is not None:
        _write_figures(contents, options, inputs, overwrite=overwrite)
    return out


def _pairs(run: RunFolder) -> HashedInput | None:
    """The pairs that a run was made from, if they are there and what they were."""
    try:
        pairs, manifest = run.pairs()
    except InputError:
        return None
    digest = input_hash(pairs)
    return HashedInput(pairs, digest) if digest == manifest["inputs"].get("pairs") else None


def _is_own(out: Path) -> bool:
    """Whether there is a report of kat's which nobody changed: it tells nothing that is not in the run."""
    manifest = read_manifest(out)
    return manifest is not None and manifest["stage"] == "report" and first_damage(out, manifest) is None


def openings_map(contents: ReportInputs, seed: int) -> Points:
    """Return the openings of a run with their places and everything that can colour them."""
    from kat.projection.coordinates import project
    from kat.projection.regions import find_regions

    texts, ids = contents.texts, list(contents.embeddings.ids)
    vectors = contents.embeddings.vectors
    placed = project(vectors, contents.neighbors, seed, center=contents.options.center)
    regions = find_regions(placed.xy, texts, seed=seed)
    names = [" ".join(region.words) for region in regions.labels]
    kinds = {"density bin": _bins(contents)}
    if (pairs := contents.pairs) is not None:
        kinds["source"] = [pairs.source.get(one, "") or "several sources" for one in ids]
        if contents.topic is not None:
            kinds[contents.topic] = [pairs.topic.get(one, "") or "several" for one in ids]
    lost = contents.array(LENGTHS)[:, 1]
    if (lost >= 0).any():
        kinds["truncation"] = np.where(lost > 0, "cut", "read in full").tolist()
    kinds["region"] = [names[one] if one >= 0 else "" for one in regions.of.tolist()]
    labels = [(region.x, region.y, name) for region, name in zip(regions.labels, names, strict=True) if name]
    return Points(ids, placed.xy, texts, _numbers(contents, ids), kinds=kinds, labels=labels, projection=placed.told)


def _numbers(contents: ReportInputs, ids: Sequence[str]) -> dict[str, np.ndarray]:
    tokens = contents.array(LENGTHS)[:, 0].astype(np.float64)
    numbers = {
        "log density": contents.array(LOG_DENSITY),
        "weight": contents.array(WEIGHTS),
        "tokens": np.where(tokens >= 0, tokens, np.nan),
    }
    if (pairs := contents.pairs) is not None:
        numbers["pairs"] = np.asarray([pairs.pairs.get(one, 0) for one in ids], np.float64)
    if (margins := contents.margins()) is not None:
        name, values = margins
        numbers[f"reward margin of {name}"] = np.asarray([values.get(one, np.nan) for one in ids])
    return {name: values for name, values in numbers.items() if np.isfinite(values).any()}


def _bins(contents: ReportInputs) -> list[str]:
    """The density bin of every opening: that of its pairs, or a fifth of all where there are no pair weights yet."""
    from kat.reports.sections.parts import bin_name

    log_density = contents.array(LOG_DENSITY)
    if (table := contents.table) is None:
        return [bin_name(b) for b in density_bins(log_density, np.ones(len(log_density), bool)).tolist()]
    of = dict(zip(table.opening_id.tolist(), table.bin.tolist(), strict=True))
    return [bin_name(of[one]) if of.get(one, -1) >= 0 else "" for one in contents.embeddings.ids]


def _sections(contents: ReportInputs, points: Points) -> list[Section]:
    """Every section of the page."""
    from kat.reports.sections.audit import audit
    from kat.reports.sections.models import models
    from kat.reports.sections.next_steps import commands, next_steps
    from kat.reports.sections.provenance import provenance
    from kat.reports.sections.summary import summary
    from kat.reports.sections.weights import OpeningFacts, weights

    run, meta = contents.run, contents.meta
    log_density, lengths, w = (contents.array(name) for name in (LOG_DENSITY, LENGTHS, WEIGHTS))
    remedy = weigh_again(run.pair_weights())
    steps = next_steps(run.root, contents.done) if run.is_run else []
    facts = OpeningFacts(
        points.ids, points.texts, w, log_density, tokens=lengths[:, 0], region=list(points.kinds["region"])
    )
    pairs = contents.pairs
    trained = contents.trained
    if run.is_run and not (trained.reward_models or trained.policies):
        trained = replace(trained, todo=[line for line in commands(run.root, contents.done) if "verify" not in line])
    return [
        summary(
            meta,
            prefixes=contents.prefixes,
            pair_weights=contents.pair_stats,
            log_density=log_density,
            nearest=contents.neighbors.distances[:, 0] if contents.neighbors.k else None,
            commands=steps,
        ),
        weights(meta, facts, contents.options, table=contents.table, remedy=remedy, stability=contents.stability),
        audit(
            meta,
            dict(zip(points.ids, points.texts, strict=True)),
            prefixes=contents.prefixes,
            rejected=contents.rejected,
            lengths=lengths,
            table=contents.table,
            pair_weights=contents.pair_stats,
            contradictions=None if pairs is None else pairs.contradictions,
            examples=(lambda row: None) if pairs is None else pairs.examples.get,
            remedy=remedy,
        ),
        models(trained),
        provenance(
            contents.outputs, log=[e for e in read_log(run.root) if e.get("stage") != "report"], versions=_versions()
        ),
    ]


def _log(run: RunFolder) -> list[dict[str, Any]]:
    """What the run's stages took, but not its reports: one that is made again is to be the same."""
    return [entry for entry in read_log(run.root) if entry.get("stage") != "report"]


def _versions() -> Mapping[str, str | None]:
    """Return what is installed here."""
    import platform
    from importlib import metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    names = ("torch", "transformers", "numpy", "pyarrow", "umap-learn", "scikit-learn")
    return {"Python": platform.python_version(), **{name: version(name) for name in names}}


def _write_map(contents: ReportInputs, points: Points, file: Any) -> None:
    from kat.projection.map_file import write_map

    columns = {name.replace(" ", "_"): values for name, values in {**points.numbers, **points.kinds}.items()}
    columns = {name: [v or None for v in c] if isinstance(c, list) else c for name, c in columns.items()}
    write_map(file, points.ids, points.texts, points.xy, neighbors=contents.neighbors, columns=columns)


def _write_figures(
    contents: ReportInputs,
    options: ReportOptions,
    inputs: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write every chart of the page and its map to a folder, as PNG and SVG files."""
    assert options.figures is not None
    with stage(
        "report",
        options.figures,
        inputs=inputs,
        options=recorded(options),
        files=("map.png", "map.svg"),
        apart=contents.run.read_apart,
        alone=True,
        overwrite=overwrite or _is_own(options.figures),
    ) as job:
        if job.done:
            return
        from kat.reports.chart_figures import draw_chart, draw_map

        points = openings_map(contents, options.seed)
        draw_map(points, job.folder)
        charts = [b for s in _sections(contents, points) for b in s.blocks if isinstance(b, Chart)]
        for chart in charts:
            draw_chart(chart, job.folder)
        job.say(f"the map and {len(charts)} charts, as PNG and SVG")
