"""Weighed pairs and a policy → one that was trained by DPO, its implicit rewards of the validation pairs, a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.config import RunOptions
from kat.reports.console.train_rm import training_lines
from kat.reports.model_card import model_card
from kat.run_folder import DPO, reference_cache
from kat.stages.pair_report import Prepared
from kat.stages.pair_training import train_on_run
from kat.training_config import DpoOptions

if TYPE_CHECKING:
    from kat.training.implicit import Reference
    from kat.training.tokens import TokenPairs
    from kat.training.train import Scored


@dataclass(frozen=True)
class DpoTraining:
    """The `PairTraining` of policies that are trained by DPO."""

    options: DpoOptions
    stage: str = "train-dpo"
    place: str = DPO
    role: str = "policy"

    @property
    def source(self) -> str:
        """The name of the policy that training starts from."""
        return self.options.policy

    def load(self, device: str) -> Any:
        """Return the policy."""
        from kat.training.train_dpo import load_dpo_policy

        return load_dpo_policy(self.options, device)

    def ready(self, prepared: Prepared, out: Path, models: Mapping[str, str], ranks: Any) -> _Ready:
        """Return the training, after the reference has said what it thinks of all pairs that are asked for; what it
        thinks is kept beside OUT."""
        from kat.training.plan import Plan
        from kat.training.train_dpo import kept_reference

        tokens, place = prepared.tokens, {name: number for number, name in enumerate(prepared.tokens.ids)}
        planned = prepared.train.select(Plan(prepared.train.prompt, prepared.weights, self.options).pairs())
        read = [planned, prepared.validation, *([] if prepared.selection is None else [prepared.selection])]
        needed = np.sort(np.asarray([place[name] for part in read for name in part.ids], np.int64))
        told: dict[str, Any] = {"needed": needed, "ranks": ranks, "progress": True}
        reference = kept_reference(prepared.model, tokens, self.options, reference_cache(out), models, **told)
        return _Ready(prepared, self.options, reference, place)

    def card(self, manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
        """Return the model card of the policy."""
        told = (
            f"A policy trained from `{report['model']}` by DPO ({self.options.loss}, β {self.options.beta:g}) with "
            f"{report['weights']} pair weights (`kat train-dpo`).\nAccuracies are of its implicit rewards: β times how "
            "much likelier a completion became."
        )
        return model_card("text-generation", "dpo", told, manifest["inputs"], training_lines(report))


@dataclass(frozen=True, eq=False)
class _Ready:
    """A training with what the reference thinks of all pairs, `place` their numbers."""

    prepared: Prepared
    options: DpoOptions
    reference: Reference
    place: Mapping[str, int]

    def _with_reference(self, data: TokenPairs) -> tuple[TokenPairs, Reference]:
        from kat.training.implicit import Reference

        rows = np.asarray([self.place[name] for name in data.ids], np.int64)
        return data, Reference(*(side[rows] for side in self.reference))

    def fit(self, **told: Any) -> dict[str, Any]:
        from kat.training.train_dpo import fit_dpo

        ready = self.prepared
        data, reference = self._with_reference(ready.train)
        if ready.selection is not None:
            told["selection"] = self._with_reference(ready.selection)
        return fit_dpo(ready.model, data, ready.weights, self.options, reference=reference, **told)

    def scores(self) -> Scored:
        from kat.training.train_dpo import implicit_scores

        data, reference = self._with_reference(self.prepared.validation)
        return implicit_scores(self.prepared.model, data, reference, options=self.options)

    def save(self, folder: Path) -> None:
        from kat.training.train_grpo import save_policy

        self.prepared.model.merge()
        save_policy(self.prepared.model, folder)


def train_dpo(
    folder: Path,
    out: Path | None,
    pair_weights: str | None,
    options: DpoOptions,
    run_options: RunOptions,
) -> Path:
    """Train a policy on RUN's pairs by DPO, see `train_on_run`; return the folder written."""
    return train_on_run(DpoTraining(options), folder, out, pair_weights, run_options=run_options)
