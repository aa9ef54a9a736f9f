"""What is there → what was reported of it as it was made, printed again; of weights, their ends and who pays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import manifest_path
from kat.data.headings import Heading, headings
from kat.density.extremes import Extreme, extremes
from kat.density.storage import load_weights
from kat.errors import InputError, KatError, MismatchError, translated
from kat.pair_weights.facts import pay_facts, who_pays
from kat.pair_weights.storage import read_pair_weights
from kat.records import OPENING, Prefix, Unit
from kat.reports.console.show import extreme_lines, share_lines
from kat.reports.console.weigh_pairs import SHOWN
from kat.run_folder import DENSITY, EMBEDDINGS, LOG_DENSITY, PREFIXES, RunFolder, named_items, weigh_again
from kat.stages.density import prompts_of
from kat.stages.shown_outputs import Kept, order_of, pair_weight_facts, told
from kat.stages.stage import labelled, tell_output
from kat.stages.verify import no_manifest, outputs_in
from kat.statistics import density_bins
from kat.terminal import tell_figures, width

MISSING = 5
"""Missing files of an output that are named."""


def show_again(path: Path) -> list[str]:
    """Return in lines what was reported of what is there, in the pipeline's order, and how its weights lie.

    `path` is a folder of `kat run`, of weights, a file of pair weights, or whatever one command wrote. Parts that are
    damaged or missing are a line each. Nothing is written, and nothing computed that takes long.

    Raises InputError or MismatchError if nothing can be shown.
    """
    if not path.exists() and not manifest_path(path).is_file():
        raise InputError(f"{path} does not exist.")
    shown = _Shown(path)
    lines = [*shown.reports(), *shown.weights(), *shown.notes]
    if not shown.parts:
        if shown.faults:
            raise MismatchError(*shown.faults)
        raise no_manifest(path)
    return lines


@dataclass
class _Shown:
    """What is shown of a path; `parts` counts what could be, `faults` are what is wrong with the rest, and `notes` what
    is said at the end."""

    path: Path
    parts: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def run(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def _is_run(self) -> bool:
        """Whether this is the folder of a run, or what is left of one."""
        return self.path.is_dir() and ((self.path / PREFIXES).is_file() or (self.path / DENSITY).is_dir())

    @cached_property
    def _density(self) -> Path | None:
        """The folder of weights, if there is one."""
        try:
            return self.run.density
        except InputError:
            return None

    @cached_property
    def _table(self) -> Path | None:
        """The pair weights that were named, or those of the folder of weights that was."""
        table = self.run.pair_weights()
        if not table.is_file() and not manifest_path(table).is_file():
            return None
        try:
            stage = (self.run.manifest(table) or {}).get("stage")
        except KatError:
            return table  # what is wrong with it is said where it is shown
        return table if stage == "weigh-pairs" else None

    @cached_property
    def _words(self) -> Unit:
        """What texts for people call the unit of the weights; openings where nothing that can be read says it."""
        try:
            return self.run.words
        except KatError:
            return OPENING

    def _outputs(self) -> Iterator[Path]:
        """What has a manifest: of a folder all that is in it, of a run also what should be there."""
        if manifest_path(self.path).is_file():
            yield self.path
        if self.path.is_dir():
            if self._is_run:
                yield from (self.path / name for name in (PREFIXES, EMBEDDINGS, DENSITY))
            yield from self.run.all_pair_weights()
            yield from outputs_in(self.path, damaged=True)

    def reports(self) -> Iterator[str]:
        """Yield what each output's stage reported, and a line for each that cannot be told."""
        kept = []
        for path in dict.fromkeys(self._outputs()):
            try:
                manifest = self.run.manifest(path)
                if manifest is None:
                    raise MismatchError(_lacking(path))
            except KatError as error:
                yield from self._fault(path, error)
            else:
                kept.append(Kept(path, manifest, self._headings))
        for one in sorted(kept, key=lambda each: order_of(each.manifest["stage"])):
            yield from self._report(one)

    def _report(self, kept: Kept) -> Iterator[str]:
        names = kept.manifest.get("outputs") or {}
        folder = kept.path if kept.path.is_dir() else kept.path.parent
        missing = [folder / name for name in names if not (folder / name).is_file()]
        try:
            with translated(MismatchError, f"{kept.path} holds what this version of kat does not write"):
                summary, details = told(kept)
        except KatError as error:
            if not missing:
                yield from self._fault(kept.path, error)
        else:
            self.parts += 1
            yield labelled(kept.manifest["stage"], f"{summary} → {kept.path}")
            tell_output(kept.manifest["stage"], kept.path)
            yield from details
        for path in missing[:MISSING]:
            lacking = MismatchError(f"{path} is missing, which kat {kept.manifest['stage']} wrote.")
            yield from self._fault(path, lacking)
        if len(missing) > MISSING:
            yield labelled("damaged", f"… and {len(missing) - MISSING:,} more files of {kept.path}")

    def _fault(self, path: Path, error: KatError) -> list[str]:
        """The line that says what is wrong with a part; none if it was said before."""
        told = " ".join(error.lines)
        text = told if str(path) in told else f"{path}: {told}"
        if text in self.faults:
            return []
        self.faults.append(text)
        return [labelled("damaged", text)]

    def weights(self) -> Iterator[str]:
        """Yield the ends of the weights and who pays; nothing where the path is no run, weights or pair weights."""
        place = self._density or self._table
        if self._density is None and self._is_run:
            lacking = MismatchError(f"{self.path} holds no weights: they were removed, or its run did not finish.")
            yield from self._fault(self.path, lacking)
        if place is None or (self.path.is_file() and self._table is None):
            return
        yield from ("", labelled("weights", f"{place}"))
        for part in (self._share_lines,) if self._density is None else (self._end_lines, self._share_lines):
            try:
                with translated(MismatchError, f"{place} cannot be shown"):
                    lines = part()
            except KatError as error:
                yield from self._fault(place, error)
            else:
                self.parts += 1
                yield from lines

    @cached_property
    def _ends(self) -> tuple[list[Extreme], list[Extreme]]:
        """The heaviest and the lightest, without their neighbours where these are not kept."""
        from kat.embedding.storage import load_embeddings
        from kat.neighbors.storage import load_neighbors

        ids, values = load_weights(self.run.density)
        neighbors = None
        if self.run.neighbors.is_dir():
            try:
                neighbors = load_neighbors(self.run.neighbors, load_embeddings(self.run.density)[0])
            except KatError as error:
                self.notes += self._fault(self.run.neighbors, error)
        else:
            self.notes.append(f"  no neighbours are kept in {self.run.density}")
        return extremes(ids, values, neighbors)

    def _end_lines(self) -> list[str]:
        heaviest, lightest = self._ends
        if not heaviest:
            return [f"  all {self._words.several} weigh the same"]
        tell_figures(heaviest=heaviest, lightest=lightest)
        openings = self._headings(_ids_of([*heaviest, *lightest]))
        return extreme_lines(heaviest, lightest, openings, self._words, width())

    def _share_lines(self) -> list[str]:
        """The shares of pair weights by density bin and source; of weights alone, by density bin of the openings."""
        shares = self._opening_shares() if self._table is None else _pair_shares(self._table)
        tell_figures(shares=shares)
        if self._table is not None:
            return share_lines(shares, width=width())
        hint = f"  by source, and of the pairs: {weigh_again(self.run.pair_weights())}"
        return [*share_lines(shares, self._words.several, width()), hint]

    def _opening_shares(self) -> dict[str, list[dict[str, Any]]]:
        _, values = load_weights(self.run.density)
        log_density = np.asarray(self.run.load(LOG_DENSITY))
        bins = density_bins(log_density, np.ones(len(log_density), bool))
        return pay_facts({"bin": np.char.add("bin ", bins.astype(str))}, values.astype(np.float64))

    def _headings(self, ids: Iterable[str]) -> Mapping[str, Heading]:
        """What to show of some ids; nothing of those whose text is not known."""
        texts = self._texts
        return headings(texts[name] for name in ids if name in texts)

    @cached_property
    def _texts(self) -> dict[str, Prefix]:
        """The prompts of all that will be named, read once."""
        names: set[str] = set()
        for ids in (self._named_by_pairs, lambda: _ids_of([*self._ends[0], *self._ends[1]])):
            # A fault is said where the openings are shown.
            with contextlib.suppress(KatError), translated(MismatchError, "what names openings cannot be read"):
                names |= set(ids())
        try:
            manifest = (self.run.manifest(self._density) if self._density else None) or {}
            own = self.run.root / PREFIXES
            prompts = own if own.is_file() else named_items(self._density, manifest) if self._density else None
            if prompts is not None:
                return {one.id: one for one in prompts_of(prompts, names, manifest)} if names else {}
            self.notes.append("  texts are not known: what was embedded is not there")
        except KatError as error:
            self.notes += self._fault(self.path, error)
        return {}

    def _named_by_pairs(self) -> list[str]:
        tables = [self._table] if self._table is not None else []
        tables += self.run.all_pair_weights() if self.path.is_dir() else []
        ids = []
        for table in dict.fromkeys(tables):
            ids += [one["id"] for one in pair_weight_facts(table)["heaviest"][:SHOWN]]
        return ids


def _pair_shares(table: Path) -> dict[str, list[dict[str, Any]]]:
    """Who pays for pair weights, by the report beside them, or by themselves where it is damaged."""
    try:
        facts = pair_weight_facts(table)
    except KatError:
        weights = read_pair_weights(table)
        trains = weights.text("split").coded().equals("train")
        return who_pays(weights.bin[trains], weights.src[trains], weights.v[trains])
    bins = [
        {**one, "value": f"bin {one['bin']}"}
        for one in sorted(facts["bins"], key=lambda each: each["mean_v"] or 0.0)
        if one["pairs"]
    ]
    return {"bin": bins, **facts["pays"]}


def _lacking(path: Path) -> str:
    """What to say of a part of a run that has no manifest."""
    if not path.exists():
        return f"{path} is not there: the run that should have written it did not finish, or somebody removed it."
    return f"{path} has no manifest: the run that wrote it did not finish."


def _ids_of(ends: Iterable[Extreme]) -> list[str]:
    return [name for one in ends for name in (one.id, *(other for other, _ in one.nearest))]
