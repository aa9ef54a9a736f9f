"""What a report shows, made of what a run holds: the openings on a map, and every section of the page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import kat
from kat.digests import sha256_file
from kat.folders import files_below
from kat.reports.blocks import Note, Points, Section
from kat.run_folder import LENGTHS, LOG_DENSITY, WEIGHTS, weigh_again
from kat.stages.report_inputs import ReportInputs
from kat.statistics import density_bins

_PACKAGES = ("torch", "transformers", "numpy", "pyarrow", "umap-learn", "scikit-learn")
_PAGE, _CODE = ("reports", "projection"), (".py", ".js", ".css", ".j2")


def page_code() -> str:
    """Return a hash of what makes a page of a run's contents: with another, the same contents are shown otherwise."""
    root, digest = Path(kat.__file__).parent, hashlib.sha256()
    for path in sorted(one for folder in _PAGE for one in files_below(root / folder) if one.suffix in _CODE):
        digest.update(f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def installed_versions() -> dict[str, str | None]:
    """Return the versions of what a report rests on, as they are here; None for what is not installed."""
    import platform
    from importlib import metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@dataclass
class ReportContents:
    """The map and the sections of a report, each made when it is first asked for."""

    held: ReportInputs
    seed: int

    @cached_property
    def points(self) -> Points:
        """The openings with their places and everything that can colour them."""
        from kat.projection.coordinates import project
        from kat.projection.regions import find_regions

        held = self.held
        pairs = held.pairs  # first: a topic that no column names is known soon
        texts, ids = held.texts, list(held.embeddings.ids)
        placed = project(
            held.embeddings.vectors, held.neighbors, self.seed, center=held.options.center, unit=held.run.words
        )
        regions = find_regions(placed.xy, texts, seed=self.seed)
        names = [" ".join(region.words) for region in regions.labels]
        kinds: dict[str, Sequence[str]] = {"density bin": self._bins()}
        if pairs is not None:
            kinds["source"] = [pairs.source.get(one, "") for one in ids]
        lost = held.array(LENGTHS)[:, 1]
        if (lost >= 0).any():
            kinds["truncation"] = np.where(lost > 0, "cut", "read in full").tolist()
        kinds["region"] = [names[one] if one >= 0 else "" for one in regions.of.tolist()]
        numbers = self._numbers(ids)
        if pairs is not None and held.topic is not None:
            taken = {"id", "text", "projection_x", "projection_y", "neighbors", *map(column_name, (*numbers, *kinds))}
            name = f"{held.topic} of the pairs" if column_name(held.topic) in taken else held.topic
            kinds = {name: [pairs.topic.get(one, "") for one in ids], **kinds}
        labels = [(region.x, region.y, name) for region, name in zip(regions.labels, names, strict=True) if name]
        told: dict[str, Any] = {"labels": labels, "projection": placed.told, "unit": held.run.words}
        return Points(ids, placed.xy, texts, numbers, kinds=kinds, **told)

    @property
    def columns(self) -> dict[str, Any]:
        """The colours of the map as columns of a table; what is not known is None or NaN."""
        points = self.points
        columns: dict[str, Any] = {column_name(name): values for name, values in points.numbers.items()}
        return columns | {column_name(name): [v or None for v in values] for name, values in points.kinds.items()}

    @cached_property
    def sections(self) -> list[Section]:
        """Every section of the page."""
        from kat.reports.sections.provenance import provenance

        points = self.points  # first: reading the texts may leave a note
        parts = [self._weights(points), self._audit(points), self._models()]
        last = provenance(self.held.outputs, log=self.held.log, versions=installed_versions())
        return [self._summary(), *parts, last]

    def _numbers(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        held = self.held
        tokens = held.array(LENGTHS)[:, 0].astype(np.float64)
        numbers = {
            "log density": held.array(LOG_DENSITY),
            "weight": held.array(WEIGHTS),
            "tokens": np.where(tokens >= 0, tokens, np.nan),
        }
        if (pairs := held.pairs) is not None:
            numbers["pairs"] = np.asarray([pairs.pairs.get(one, 0) for one in ids], np.float64)
        if (margins := held.margins()) is not None:
            name, values = margins
            numbers[f"reward margin of {name}"] = np.asarray([values.get(one, np.nan) for one in ids])
        return {name: values for name, values in numbers.items() if np.isfinite(values).any()}

    def _bins(self) -> list[str]:
        """The density bin of every opening: that of its pairs, or a fifth of all where there are no pair weights."""
        from kat.reports.evaluation_parts import bin_name

        log_density = self.held.array(LOG_DENSITY)
        if (table := self.held.table) is None:
            return [bin_name(b) for b in density_bins(log_density, np.ones(len(log_density), bool)).tolist()]
        of = dict(zip(table.opening_id.tolist(), table.bin.tolist(), strict=True))
        return [bin_name(of[one]) if of.get(one, -1) >= 0 else "" for one in self.held.embeddings.ids]

    def _summary(self) -> Section:
        from kat.reports.sections.next_steps import next_steps
        from kat.reports.sections.summary import summary

        held = self.held
        section = summary(
            held.meta,
            prefixes=held.prefixes,
            pair_weights=held.pair_stats,
            log_density=held.array(LOG_DENSITY),
            nearest=held.neighbors.distances[:, 0] if held.neighbors.k and not held.options.center else None,
            vectors_left_out=len((held.run.manifest(held.run.density) or {}).get("left_out") or ()),
            commands=next_steps(held.run.root, held.done) if held.run.is_run else [],
            unit=held.run.words,
        )
        return replace(section, blocks=[*section.blocks, *(Note(_as_sentence(note)) for note in held.notes)])

    def _weights(self, points: Points) -> Section:
        from kat.reports.sections.weights import OpeningFacts, weights

        held = self.held
        log_density, w, lengths = (held.array(name) for name in (LOG_DENSITY, WEIGHTS, LENGTHS))
        told: dict[str, Any] = {"tokens": lengths[:, 0], "region": list(points.kinds["region"]), "unit": held.run.words}
        facts = OpeningFacts(points.ids, points.texts, w, log_density, **told)
        remedy = weigh_again(held.run.pair_weights())
        return weights(held.meta, facts, held.options, table=held.table, remedy=remedy, stability=held.stability)

    def _audit(self, points: Points) -> Section:
        from kat.reports.sections.audit import audit

        held, pairs = self.held, self.held.pairs
        return audit(
            held.meta,
            dict(zip(points.ids, points.texts, strict=True)),
            prefixes=held.prefixes,
            rejected=held.rejected,
            lengths=held.array(LENGTHS),
            table=held.table,
            pair_weights=held.pair_stats,
            contradictions=None if pairs is None else pairs.contradictions,
            examples=(lambda row: None) if pairs is None else pairs.examples.get,
            remedy=weigh_again(held.run.pair_weights()),
            unit=held.run.words,
        )

    def _models(self) -> Section:
        from kat.reports.sections.models import models
        from kat.reports.sections.next_steps import commands

        trained, run = self.held.trained, self.held.run
        if run.is_run and not trained.any:
            trained = replace(trained, todo=commands(run.root, self.held.done)[:-1])  # the last one verifies
        return models(trained)


def _as_sentence(note: str) -> str:
    """Return a note as a sentence; a path or a name that it begins with stays as it is."""
    start = note.partition(" ")[0]
    return f"{start.capitalize() if start.isalpha() else start}{note[len(start) :]}."


def column_name(name: str) -> str:
    """Return a name as that of a table's column: its letters, digits and underscores."""
    return re.sub(r"\W+", "_", name).strip("_") or "topic"
