"""Everything that a run holds and a report tells of: read once, each file compared with its manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import check_vouched, is_kept, json_bytes
from kat.config import DensityOptions, recorded_as
from kat.data.columns import line_limit_of, reading_of
from kat.data.pairs import PairReader
from kat.data.prompt_texts import inside_of
from kat.data.prompts import PromptFile
from kat.density.stability import AtK, at_other_ks
from kat.digests import sha256_read
from kat.errors import InputError, MismatchError
from kat.inputs import HashedInput, Inputs, input_files, input_hash
from kat.neighbors.storage import load_neighbors
from kat.pair_config import PairOptions
from kat.pair_weights.specs import flags_of
from kat.pair_weights.storage import PairWeights, read_pair_weights
from kat.records import Embeddings, Neighbors
from kat.reports import forms
from kat.reports.sections.models import Trained
from kat.reports.sections.next_steps import Done
from kat.reports.sections.provenance import Output
from kat.run_folder import (
    CONTEXTS,
    IDS,
    LENGTHS,
    LOG_DENSITY,
    METADATA,
    PREFIXES,
    REPORT,
    VALIDATION_SCORES,
    VECTORS,
    WEIGHTS,
    RunFolder,
    map_path,
    rejected_path,
    stats_path,
)
from kat.run_log import read_log
from kat.stages.density import density_options
from kat.stages.report_files import check_arrays, read_lines, read_object
from kat.stages.report_models import READ, read_trained, scores_read
from kat.stages.report_pairs import PairFacts, read_pair_facts, texts_of
from kat.stages.verify import check_weights_file, not_covered, outputs_in

_OPENINGS = (WEIGHTS, LOG_DENSITY, IDS, METADATA, LENGTHS, VECTORS)
_BAD_ROW = {"file", "line", "reason"}
_REJECTED = 10_000
"""Bad rows of which the reasons are counted."""


@dataclass
class ReportInputs:
    """The contents of a run, each read when it is first asked for."""

    run: RunFolder
    topic: str | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files that are read, by their names as seen from the run."""
        density, neighbors = self.run.density, self.run.neighbors
        paths = [density / name for name in _OPENINGS]
        paths += [neighbors / name for name in (self.run.manifest(neighbors) or {}).get("outputs", {})]
        paths += [
            p for p in (self.run.prefixes, self._stats, self._rejected, self.run.root / CONTEXTS) if p is not None
        ]
        if self._pair_weights is not None:
            paths += [self._pair_weights, stats_path(self._pair_weights)]
        for output in self.outputs:
            paths += [self.run.root / output.name / name for name in READ.get(output.manifest["stage"], ())]
        return {self.name_of(path): path for path in paths if path.is_file()}

    def stage_inputs(self, versions: Mapping[str, str | None]) -> dict[str, Any]:
        """What a report is made from: the files, the pairs if they are what they were, and what else it shows.

        The hash "told" is that of other outputs' manifests, of times and of `versions`.
        """
        told = [[(output.name, output.manifest) for output in self.outputs], self.log, dict(versions)]
        inputs: dict[str, Any] = {**self.files, "told": hashlib.sha256(json_bytes(told)).hexdigest()}
        return inputs if self._same_pairs is None else inputs | {"pairs": HashedInput(*self._same_pairs)}

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """What the run's stages took, but not its reports: one that is made again is to be the same."""
        return [entry for entry in read_log(self.run.root) if entry.get("stage") != "report"]

    @cached_property
    def outputs(self) -> list[Output]:
        """What was made in the run, in the order of the pipeline, its reports left out."""
        root = self.run.root
        if self.run.is_run:
            for path in self.run.all_pair_weights():
                check_weights_file(path, self.run)
            needed = [root / PREFIXES, self.run.embeddings, self.run.density]
            for output in (one for one in needed if self.run.manifest(one) is None):
                raise MismatchError(f"{output} has no manifest: the run that wrote it did not finish. Run it again.")
        first = [root / PREFIXES, self.run.embeddings, self.run.neighbors, self.run.density, root / CONTEXTS]
        rest = [*outputs_in(root)] if self.run.is_run else []
        paths = list(dict.fromkeys(p for p in [*first, *rest] if self.run.manifest(p)))
        manifests = [(self.name_of(path), self.run.manifest(path) or {}) for path in paths]
        if self.run.is_run:
            own = {root / REPORT, map_path(root / REPORT)}  # are about to be made
            self.notes += not_covered(root, own | set(paths))
        return [Output(name, manifest) for name, manifest in manifests if manifest.get("stage") != "report"]

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The report of the weights."""
        return read_object(self.run.density / METADATA, forms.DENSITY)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The openings' vectors, mapped."""
        from kat.embedding.storage import load_embeddings

        embeddings = load_embeddings(self.run.density)[0]
        check_arrays(self.run, list(embeddings.ids))
        return embeddings

    @cached_property
    def neighbors(self) -> Neighbors:
        """Their neighbours."""
        return load_neighbors(self.run.neighbors, self.embeddings)

    @cached_property
    def options(self) -> DensityOptions:
        """What the weights were made with."""
        return density_options(self.run)

    def array(self, name: str) -> np.ndarray:
        """Return an array of the weights."""
        return np.asarray(self.run.load(name))

    @cached_property
    def stability(self) -> list[AtK]:
        """The weights at other k."""
        from kat.density.estimators import estimate_density

        density = estimate_density(self.neighbors, self.options.k, self.options.estimator)
        return at_other_ks(density, self.array(WEIGHTS), self.options)

    @cached_property
    def texts(self) -> list[str]:
        """The openings, in the order of the weights; of contexts with their last message. Empty where not known."""
        prefixes = self.run.prefixes
        if prefixes is None:
            where = (self.run.manifest(self.run.density) or {}).get("items_path")
            gone = (
                "no file that was embedded is named" if where is None else f"{where}, which was embedded, is not there"
            )
            self.notes.append(f"the texts of the {self.run.words.several} are not known: {gone}")
            return [""] * len(self.embeddings)
        for file in input_files(prefixes):
            check_vouched(file.path)
        manifest = self.run.manifest(self.run.density) or {}
        limit = line_limit_of(manifest)
        told = texts_of(PromptFile(prefixes, "all", inside=inside_of(manifest), max_line_bytes=limit))
        if missing := [one for one in self.embeddings.ids if one not in told]:
            raise MismatchError(
                f"{prefixes} has no prompt with the id {missing[0]!r}, which {self.run.density} has. "
                "Name the folder of the run that these weights belong to."
            )
        return [told[one] for one in self.embeddings.ids]

    @cached_property
    def prefixes(self) -> dict[str, Any] | None:
        """The counts of the prefixes."""
        return None if self._stats is None else read_object(self._stats, forms.PREFIXES, self.run.root / PREFIXES)

    @cached_property
    def rejected(self) -> list[dict[str, Any]]:
        """Bad rows, the first of them. Raises MismatchError for a file of them that is not what was set aside."""
        path = self._rejected
        if path is None:
            if bad := (self.prefixes or {}).get("bad_rows"):
                name = rejected_path(self.run.root / PREFIXES).name
                self.notes.append(f"{name} is not there: why {bad:,} bad rows are bad is not told")
            return []
        told = (self.run.prefixes_manifest.get("beside") or {}).get(path.name)
        if told not in (None, sha256_read(path)):
            raise MismatchError(f"{path} does not hash to what the manifest of {self.run.prefixes} says. Remove it.")
        rows = list(read_lines(path, {}, _REJECTED))
        if odd := [number for number, row in enumerate(rows, 1) if not row.keys() >= _BAD_ROW]:
            raise MismatchError(f"{path}:{odd[0]} is no row that kat set aside. Remove the file.")
        return rows

    @cached_property
    def table(self) -> PairWeights | None:
        """The run's pair weights, if there are some."""
        return None if self._pair_weights is None else read_pair_weights(self._pair_weights)

    @cached_property
    def pair_stats(self) -> dict[str, Any] | None:
        """The report of the pair weights."""
        path = self._pair_weights
        stats = None if path is None else self._beside(path, stats_path)
        return None if stats is None else read_object(stats, forms.PAIR_WEIGHTS, path)

    @cached_property
    def trained(self) -> Trained:
        """What was tried, trained and evaluated."""
        names = {stage: self._names(stage) for stage in READ}
        if len(tried := names["try-weights"]) > 1:
            self.notes.append(f"of what was tried, {tried[0]} is shown, and not {', '.join(tried[1:])}")
        return read_trained(self.run, names)

    @cached_property
    def done(self) -> Done:
        """What was done with the run, for what is still to be done."""
        models = [self.run.root / name for name in self._names("train-rm")]
        read = {path for name in self._names("evaluate-rm") for path in scores_read(self.run, name)}
        return Done(
            pair_weights=self._pair_weights,
            tried=self.trained.tried,
            flags=self._flags(),
            reward_models=models,
            evaluated=[model for model in models if (model / VALIDATION_SCORES).resolve() in read],
            exported=bool(self._names("export-weights")),
            validates=self.table is None or bool((self.table.split == "validation").any()),
        )

    def margins(self) -> tuple[str, dict[str, float]] | None:
        """Return the mean reward margin of openings that validate, by id, with the name of the reward model."""
        for name in self._names("train-rm"):
            path = self.run.root / name / VALIDATION_SCORES
            if is_kept(path, path.parent):
                total, count = Counter[str](), Counter[str]()
                for row in read_lines(path, forms.REWARDS):
                    total[row["opening_id"]] += row["chosen"] - row["rejected"]
                    count[row["opening_id"]] += 1
                return name, {one: total[one] / count[one] for one in count}
        return None

    @cached_property
    def pairs(self) -> PairFacts | None:
        """What the pairs tell; None where they are not there, or are others now."""
        if self._same_pairs is None:
            return None
        _, manifest = self.run.pairs()
        reading = replace(reading_of(manifest), unit=self.run.unit)
        labels = () if self.topic is None else (self.topic,)
        facts = read_pair_facts(partial(PairReader, self._same_pairs[0], "all", options=reading), labels)
        known = (self.prefixes or {}).get("bad_rows", facts.bad_rows)
        if facts.bad_rows > known:
            more = facts.bad_rows - known
            self.notes.append(f"{more:,} pairs whose {self.topic} is no single value are left out of what pairs tell")
        return facts

    @cached_property
    def _same_pairs(self) -> tuple[Inputs, str] | None:
        """The pairs that the run was made from and their hash, if they are there and what they were."""
        why = f"the pairs changed since {self.run.path} was made"
        try:
            pairs, manifest = self.run.pairs()
        except InputError as error:
            why = str(error).partition(";")[0].rstrip(".")  # what follows names an option that others have
        else:
            if (digest := input_hash(pairs)) == manifest["inputs"].get("pairs"):
                return pairs, digest
        self.notes.append(f"what the pairs themselves tell is left out: {why}")
        return None

    @property
    def _stats(self) -> Path | None:
        return self._beside(self.run.root / PREFIXES, stats_path) if self.run.is_run else None

    @property
    def _rejected(self) -> Path | None:
        path = rejected_path(self.run.root / PREFIXES)
        return path if self.run.is_run and path.is_file() else None

    @property
    def _pair_weights(self) -> Path | None:
        path = self.run.pair_weights()
        return path if path.is_file() else None

    def _beside(self, output: Path, place: Callable[[Path], Path]) -> Path | None:
        """What stands beside an output, if it is there. Raises MismatchError if it is missed by the manifest."""
        path = place(output)
        if not path.is_file() and path.name in ((self.run.manifest(output) or {}).get("outputs") or {}):
            raise MismatchError(f"{path} is missing, which kat wrote. Make {output} again with --overwrite.")
        return path if path.is_file() else None

    def _flags(self) -> str | None:
        """The options that the pair weights were made with, as they are typed."""
        path = self._pair_weights
        if path is None or (kept := self.run.manifest(path)) is None:
            return None
        names = {one.name for one in fields(PairOptions)}
        told = {name: value for name, value in kept["options"].items() if name in names}
        return flags_of(recorded_as(PairOptions, told, path), PairOptions())

    def _names(self, stage: str) -> list[str]:
        return [output.name for output in self.outputs if output.manifest["stage"] == stage]

    def name_of(self, path: Path) -> str:
        """Return what a file of the run is called among the inputs of a report."""
        try:
            return path.relative_to(self.run.root).as_posix()
        except ValueError:  # prefixes that stand elsewhere
            return path.name
