"""Everything that a run holds and a report tells of: read once, each file compared with its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.artifacts import check_vouched
from kat.config import DensityOptions, recorded_as
from kat.data.columns import line_limit_of, reading_of
from kat.data.contradictions import ContradictionFinder, Contradictions
from kat.data.headings import headings
from kat.data.pairs import PairReader
from kat.data.prompt_texts import inside_of
from kat.data.prompts import read_prompts
from kat.density.stability import AtK, at_other_ks
from kat.digests import read_file
from kat.errors import InputError, MismatchError
from kat.inputs import input_files, input_hash
from kat.neighbors.storage import load_neighbors
from kat.pair_config import PairOptions
from kat.pair_weights.specs import flags_of
from kat.pair_weights.storage import PairWeights, read_pair_weights
from kat.records import Embeddings, Neighbors
from kat.reports.sections.models import Evaluated, Trained, Training
from kat.reports.sections.next_steps import Done
from kat.reports.sections.provenance import Output
from kat.run_folder import (
    ANSWERS,
    CONTEXTS,
    EVALUATION,
    IDS,
    LENGTHS,
    LOG_DENSITY,
    METADATA,
    PREFIXES,
    TRAINING,
    TRAINING_LOG,
    TRIED,
    VALIDATION_SCORES,
    VECTORS,
    WEIGHTS,
    RunFolder,
    rejected_path,
    stats_path,
)
from kat.stages.density import density_options
from kat.stages.stage import with_progress
from kat.stages.verify import outputs_in

LETTERS = 4_000
"""Of a text that are held: a map shows 300, and names its regions from these."""
_OPENINGS = (WEIGHTS, LOG_DENSITY, IDS, METADATA, LENGTHS, VECTORS)
_TRAINED = {"train-rm": (TRAINING, TRAINING_LOG, VALIDATION_SCORES), "train-grpo": (TRAINING, TRAINING_LOG, ANSWERS)}
_REJECTED = 10_000
"""Bad rows of which the reasons are counted."""


@dataclass(frozen=True)
class PairFacts:
    """What the pairs themselves tell: contradictions, and what sources and topics each opening has, "" for several.

    `examples` are opening, chosen and rejected of some rows.
    """

    contradictions: Contradictions
    source: Mapping[str, str]
    topic: Mapping[str, str]
    pairs: Mapping[str, int]
    examples: Mapping[int, tuple[str, str, str]]


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
            stage, folder = output.manifest["stage"], self.run.root / output.name
            paths += [folder / name for name in _TRAINED.get(stage, ())]
            paths += [folder / EVALUATION] if stage == "evaluate-rm" else []
            paths += [folder / TRIED] if stage == "try-weights" else []
        return {self._name(path): path for path in paths if path.is_file()}

    @cached_property
    def outputs(self) -> list[Output]:
        """What was made in the run, in the order of the pipeline, its reports left out."""
        root = self.run.root
        first = [root / PREFIXES, self.run.embeddings, self.run.neighbors, self.run.density, root / CONTEXTS]
        rest = [*outputs_in(root)] if self.run.is_run else []
        paths = list(dict.fromkeys(p for p in [*first, *rest] if self.run.manifest(p)))
        manifests = [(self._name(path), self.run.manifest(path) or {}) for path in paths]
        return [Output(name, manifest) for name, manifest in manifests if manifest.get("stage") != "report"]

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The report of the weights."""
        return self._json(self.run.density / METADATA)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The openings' vectors, mapped."""
        from kat.embedding.storage import load_embeddings

        return load_embeddings(self.run.density)[0]

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
            self.notes.append("the texts of these openings are not known: the file that was embedded is not named")
            return [""] * len(self.embeddings)
        for file in input_files(prefixes):
            check_vouched(file.path)
        manifest = self.run.manifest(self.run.density) or {}
        read = read_prompts(prefixes, "all", inside=inside_of(manifest), max_line_bytes=line_limit_of(manifest))
        told = {
            one: f"{heading.opening} … {heading.later}" if heading.later else heading.opening
            for one, heading in headings(read.prefixes).items()
        }
        if missing := [one for one in self.embeddings.ids if one not in told]:
            raise MismatchError(
                f"{prefixes} has no prompt with the id {missing[0]!r}, which {self.run.density} has. "
                "Name the folder of the run that these weights belong to."
            )
        return [told[one][:LETTERS] for one in self.embeddings.ids]

    @cached_property
    def prefixes(self) -> dict[str, Any] | None:
        """The counts of the prefixes."""
        return None if self._stats is None else self._json(self._stats)

    @cached_property
    def rejected(self) -> list[dict[str, Any]]:
        """Bad rows, the first of them."""
        return [] if self._rejected is None else list(_lines(self._rejected, _REJECTED))

    @cached_property
    def table(self) -> PairWeights | None:
        """The run's pair weights, if there are some."""
        return None if self._pair_weights is None else read_pair_weights(self._pair_weights)

    @cached_property
    def pair_stats(self) -> dict[str, Any] | None:
        """The report of the pair weights."""
        return None if self._pair_weights is None else self._json(stats_path(self._pair_weights))

    @cached_property
    def trained(self) -> Trained:
        """What was tried, trained and evaluated."""
        by_stage = {
            stage: [o for o in self.outputs if o.manifest["stage"] == stage] for stage in (*_TRAINED, "try-weights")
        }
        tried = [self._json(self.run.root / o.name / TRIED) for o in by_stage["try-weights"]]
        models = [self._training(o.name) for o in by_stage["train-rm"]]
        policies = [self._training(o.name) for o in by_stage["train-grpo"]]
        evaluated = [
            Evaluated(o.name, self._json(self.run.root / o.name / EVALUATION))
            for o in self.outputs
            if o.manifest["stage"] == "evaluate-rm"
        ]
        return Trained(tried[0] if tried else None, models, policies, evaluated)

    @cached_property
    def done(self) -> Done:
        """What was done with the run, for what is still to be done."""
        stages = [(o.manifest["stage"], self.run.root / o.name, o.manifest) for o in self.outputs]
        read = {where for stage, _, m in stages if stage == "evaluate-rm" for where in _named_by(m)}
        models = [path for stage, path, _ in stages if stage == "train-rm"]
        evaluated = [model for model in models if any(model.name in Path(where).parts for where in read)]
        return Done(
            pair_weights=self._pair_weights,
            tried=self.trained.tried,
            flags=self._flags(),
            reward_models=models,
            evaluated=evaluated,
            exported=any(stage.startswith("export-weights") for stage, _, _ in stages),
            validates=self.table is None or bool((self.table.split == "validation").any()),
        )

    def margins(self) -> tuple[str, dict[str, float]] | None:
        """Return the mean reward margin of openings that validate, by id, with the name of the reward model."""
        for name in self._names("train-rm"):
            path = self.run.root / name / VALIDATION_SCORES
            if path.is_file():
                total, count = Counter[str](), Counter[str]()
                for row in _lines(path):
                    total[row["opening_id"]] += row["chosen"] - row["rejected"]
                    count[row["opening_id"]] += 1
                return name, {one: total[one] / count[one] for one in count}
        return None

    @cached_property
    def pairs(self) -> PairFacts | None:
        """What the pairs tell; None where they are not there, or are others now."""
        try:
            pairs, manifest = self.run.pairs()
            if input_hash(pairs) != manifest["inputs"].get("pairs"):
                raise InputError(f"the pairs changed since {self.run.path} was made")
        except InputError as error:
            self.notes.append(f"what the pairs themselves tell is left out: {error}")
            return None
        reading = replace(reading_of(manifest), unit=self.run.unit)
        labels = () if self.topic is None else (self.topic,)
        return read_pair_facts(partial(PairReader, pairs, "all", options=reading), labels)

    @property
    def _stats(self) -> Path | None:
        return _if_file(stats_path(self.run.root / PREFIXES)) if self.run.is_run else None

    @property
    def _rejected(self) -> Path | None:
        return _if_file(rejected_path(self.run.root / PREFIXES)) if self.run.is_run else None

    @property
    def _pair_weights(self) -> Path | None:
        return _if_file(self.run.pair_weights())

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

    def _training(self, name: str) -> Training:
        folder = self.run.root / name
        log, answers = (list(_lines(p)) if p.is_file() else [] for p in (folder / TRAINING_LOG, folder / ANSWERS))
        return Training(name, self._json(folder / TRAINING), log, answers)

    def _json(self, path: Path) -> dict[str, Any]:
        check_vouched(path)
        try:
            value = orjson.loads(read_file(path))
        except orjson.JSONDecodeError as error:
            raise MismatchError(f"{path} cannot be read: {error}.") from error
        if not isinstance(value, dict):
            raise MismatchError(f"{path} holds no object.")
        return value

    def _name(self, path: Path) -> str:
        try:
            return path.relative_to(self.run.root).as_posix()
        except ValueError:  # prefixes that stand elsewhere
            return path.name


def read_pair_facts(reader: Callable[..., PairReader], labels: Sequence[str]) -> PairFacts:
    """Read pairs once for what they tell, and again up to the last row of which an example is shown."""
    finder, pairs = ContradictionFinder(), Counter[str]()
    source: dict[str, str] = {}
    topic: dict[str, str] = {}
    for pair in with_progress(finder.watch(reader(labels=tuple(labels))), "pairs"):
        one = pair.prefix.id
        pairs[one] += 1
        for told, value in ((source, pair.src), *((topic, pair.labels[name]) for name in labels)):
            if told.setdefault(one, value) != value:
                told[one] = ""
    contradictions = finder.result()
    rows = {row for both in contradictions.reversed_examples for row in both}
    examples = {}
    for pair in reader() if rows else ():
        if pair.row in rows:
            examples[pair.row] = (pair.prefix.opening, pair.chosen, pair.rejected)
            if len(examples) == len(rows):
                break
    return PairFacts(contradictions, source, topic, pairs, examples)


def _lines(path: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    check_vouched(path)
    for number, line in enumerate(read_file(path).splitlines(), 1):
        if most is not None and number > most:
            return
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise MismatchError(f"{path}:{number} cannot be read: {error}.") from error


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _named_by(manifest: Mapping[str, Any]) -> list[str]:
    told = manifest.get("inputs_at") or {}
    return [where for value in told.values() for where in (value if isinstance(value, list) else [value])]
