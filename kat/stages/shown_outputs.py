"""What was reported of an output when it was made, from its manifest and its JSON files: a part of `kat show`.

A row of `_TOLD` for each stage: its summary and the lines below it, by the functions that said them first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kat.arrays import load_array
from kat.artifacts import check_vouched
from kat.data.headings import Heading
from kat.density.contexts import ContextSpread
from kat.density.sample_file import read_sample
from kat.digests import sha256_file
from kat.embedding.boilerplate import Boilerplate
from kat.errors import KatError, MismatchError
from kat.integrations.rows import PARTS
from kat.pair_weights.storage import read_pair_weights
from kat.plugins import EXPORTS, load
from kat.records import CONTEXT, OPENING, Unit
from kat.reports import forms
from kat.reports.console import train_grpo, train_rm
from kat.reports.console.contexts import context_lines, context_summary
from kat.reports.console.density import left_out_text, neighbor_summary, weight_lines, weight_summary
from kat.reports.console.embed import boilerplate_lines, embed_lines, inside_lines, model_text, unread_lines
from kat.reports.console.evaluate_policy import policy_lines, policy_summary
from kat.reports.console.evaluate_rm import evaluation_lines, evaluation_summary
from kat.reports.console.export_weights import export_summary, file_lines
from kat.reports.console.prefixes import prefix_lines, prefix_summary
from kat.reports.console.sample import sample_lines, sample_summary
from kat.reports.console.score import score_lines, score_summary
from kat.reports.console.try_weights import tried_lines, tried_summary
from kat.reports.console.weigh_pairs import SHOWN, pair_weight_lines, pair_weight_summary
from kat.run_folder import (
    EVALUATION,
    LENGTHS,
    METADATA,
    NEIGHBOR_FILES,
    POLICY_EVALUATION,
    TRAINING,
    TRIED,
    named_inputs,
    probabilities_path,
    stats_path,
)
from kat.stages.evaluate_rm import unit_of_pairs
from kat.stages.export_model import next_step
from kat.stages.report_files import read_lines, read_object
from kat.stages.stage import labelled

Told: TypeAlias = tuple[str, list[str]]


@dataclass(frozen=True)
class Kept:
    """An output with its manifest; `headings` gives the texts of openings by id, those that are known."""

    path: Path
    manifest: Mapping[str, Any]
    headings: Callable[[Iterable[str]], Mapping[str, Heading]]

    @property
    def unit(self) -> Unit:
        """What texts for people call the unit of an output that says what it is of."""
        told = self.manifest.get("unit") or self.manifest["options"].get("unit")
        return CONTEXT if told == "context" else OPENING

    def at(self, name: str) -> Path | None:
        """Return where an input is, if it is one file that is still what it was."""
        where = (self.manifest.get("inputs_at") or {}).get(name)
        path = named_inputs(self.path if self.path.is_dir() else self.path.parent, where) if where else None
        if not isinstance(path, Path) or not path.is_file():
            return None
        return path if sha256_file(path) == self.manifest["inputs"].get(name) else None


def told(kept: Kept) -> Told:
    """Return what was said of an output as it was made: a line, and the lines below it.

    Raises MismatchError or InputError for a file that is damaged or missing.
    """
    tell = _TOLD.get(kept.manifest["stage"])
    return ("its report is not kept", []) if tell is None else tell(kept)


def order_of(stage: str) -> int:
    """Return the place of a stage in the pipeline."""
    return [*_TOLD].index(stage) if stage in _TOLD else len(_TOLD)


def pair_weight_facts(path: Path) -> dict[str, Any]:
    """Return the report beside a file of pair weights. Raises MismatchError, InputError."""
    return _read(stats_path(path), forms.PAIR_WEIGHTS, path)


def _read(path: Path, form: forms.Form, by: Path | None = None) -> dict[str, Any]:
    if not path.is_file():
        raise MismatchError(f"{path} is missing, which kat wrote.")
    return read_object(path, form, by)


def _prefixes(kept: Kept) -> Told:
    stats = _read(stats_path(kept.path), forms.PREFIXES, kept.path)
    return prefix_summary(stats, kept.unit), prefix_lines(stats, kept.unit)


def _embeddings(kept: Kept) -> Told:
    """A folder knows the lengths of its texts; a .pt file what was lost of each."""
    meta, options = kept.manifest["model"], kept.manifest["options"]
    if kept.path.is_dir():
        summary, *details = embed_lines(np.asarray(load_array(kept.path / LENGTHS)), meta, 0)
    else:
        lost = kept.manifest.get("tokens_lost") or {}
        summary = f"vectors with {model_text(meta)}"
        details = [f"  {len(lost):,} texts lost {sum(lost.values()):,} tokens"] if lost else []
    ways = options.get("inside_text") or ()
    details += inside_lines([f"read inside the texts: {name}" for name in ways], {})
    details += boilerplate_lines(Boilerplate.from_dict(options.get("boilerplate") or {}))
    return summary, [*details, *unread_lines(kept.manifest.get("unread") or {})]


def _neighbors(kept: Kept) -> Told:
    texts, k = load_array(kept.path / NEIGHBOR_FILES[0], vouched=False).shape
    return neighbor_summary(k, texts, float(kept.manifest.get("recall", 1.0))), []


def _density(kept: Kept) -> Told:
    meta = _read(kept.path / METADATA, forms.DENSITY)
    left_out = kept.manifest.get("left_out")
    lines = [f"  {left_out_text(left_out)}"] if left_out else []
    return weight_summary(meta["n_items"], meta["k"]), [*lines, *weight_lines(meta, kept.unit)]


def _contexts(kept: Kept) -> Told:
    facts = _read(kept.path, {})
    spread = ContextSpread(**{name: facts[name] for name in ("openings", "contexts", "within", "nearest")})
    return context_summary(facts["openings_with_several"]), context_lines(spread)


def _pair_weights(kept: Kept) -> Told:
    facts = pair_weight_facts(kept.path)
    headings = kept.headings(one["id"] for one in facts["heaviest"][:SHOWN])
    return pair_weight_summary(facts), pair_weight_lines(facts, headings, kept.unit)


def _tried(kept: Kept) -> Told:
    facts = _read(kept.path / TRIED, forms.TRIED)
    return tried_summary(facts), tried_lines(facts)


def _trained_on_pairs(kept: Kept) -> Told:
    report = _read(kept.path / TRAINING, forms.REWARD_MODEL)
    return train_rm.training_summary(report), train_rm.training_lines(report)


def _trained_on_prompts(kept: Kept) -> Told:
    report = _read(kept.path / TRAINING, forms.POLICY)
    return train_grpo.training_summary(report), train_grpo.training_lines(report)


def _scores(kept: Kept) -> Told:
    facts = kept.manifest["report"]
    return score_summary(facts), score_lines(facts)


def _evaluation(kept: Kept) -> Told:
    facts = _read(kept.path / EVALUATION, forms.EVALUATION)
    unit = unit_of_pairs(kept.at("pair_weights"))
    return evaluation_summary(facts, unit), evaluation_lines(facts, unit)


def _policy(kept: Kept) -> Told:
    facts = _read(kept.path / POLICY_EVALUATION, forms.POLICY_EVALUATION)
    return policy_summary(facts), policy_lines(facts)


def _exported_weights(kept: Kept) -> Told:
    """What was met in the conversations is kept nowhere, and not said again."""
    to = kept.manifest["options"]["to"]
    summary, table = f"pairs for {to}", kept.at("pair_weights")
    with contextlib.suppress(KatError):  # that the weights are damaged is no fault of what was made of them
        if table is not None:
            split = read_pair_weights(table).text("split").coded()
            trains, validates = (int(split.equals(part).sum()) for part in PARTS)
            summary = export_summary(trains, validates, to)
    step = labelled("next", load(EXPORTS, to).next_step.format(out=kept.path))
    return summary, [*file_lines(kept.path, kept.manifest["outputs"]), step]


def _exported_model(kept: Kept) -> Told:
    return "a model as a Hugging Face folder", [labelled("next", next_step(kept.path, kept.path))]


def _sample(kept: Kept) -> Told:
    place = probabilities_path(kept.path)
    for path in (kept.path, place):
        check_vouched(path, kept.path)
    probabilities = [row["probability"] for row in read_lines(place, {})]
    return sample_summary(len(read_sample(kept.path)), probabilities), sample_lines(place)


def _report(kept: Kept) -> Told:
    if kept.path.is_dir():
        return f"{len(kept.manifest['outputs']):,} figures", []
    return f"a page of {kept.path.stat().st_size / 1e6:.1f} MB", []


_TOLD: Mapping[str, Callable[[Kept], Told]] = {
    "prefixes": _prefixes,
    "embed": _embeddings,
    "neighbors": _neighbors,
    "density": _density,
    "contexts": _contexts,
    "weigh-pairs": _pair_weights,
    "try-weights": _tried,
    "train-rm": _trained_on_pairs,
    "train-dpo": _trained_on_pairs,
    "train-grpo": _trained_on_prompts,
    "score": _scores,
    "evaluate-rm": _evaluation,
    "evaluate-policy": _policy,
    "export-weights": _exported_weights,
    "export": _exported_model,
    "sample": _sample,
    "report": _report,
}
"""By stage, in the order of the pipeline."""
