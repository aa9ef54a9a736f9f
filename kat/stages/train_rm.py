"""Weighed pairs and a model → a reward model for everybody's tools, its rewards of the validation pairs, a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.artifacts import readable_manifest
from kat.config import ReadOptions, RunOptions, recorded
from kat.data.columns import recorded_reading
from kat.data.pairs import PairReader
from kat.errors import MismatchError, OptionError
from kat.inputs import HashedInput
from kat.integrations.rows import WeighedPair
from kat.pair_weights.origin import origin_weights, validates
from kat.reports.console.train_rm import training_lines
from kat.reports.model_card import model_card
from kat.run_folder import IDS
from kat.stages.pair_report import Prepared
from kat.stages.pair_training import train_on_run, train_weighed
from kat.stages.stage import with_progress
from kat.training_config import OriginOptions, RewardOptions

if TYPE_CHECKING:
    from kat.training.train import Scored


@dataclass(frozen=True)
class RewardTraining:
    """The `PairTraining` of reward models."""

    options: RewardOptions
    stage: str = "train-rm"
    place: str = "rm"
    role: str = "model"

    @property
    def source(self) -> str:
        """The name of the model that training starts from."""
        return self.options.model

    def load(self, device: str) -> Any:
        """Return the model."""
        from kat.training.train import load_reward_model

        return load_reward_model(self.options, device)

    def ready(self, prepared: Prepared, out: Path, models: Mapping[str, str], ranks: Any) -> _Ready:
        """Return the training."""
        return _Ready(prepared, self.options)

    def card(self, manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
        """Return the model card of a reward model."""
        told = (
            f"A reward model trained from `{report['model']}` with {report['weights']} pair weights "
            "(`kat train-rm`).\nA higher number is a better completion."
        )
        return model_card("text-classification", "reward-model", told, manifest["inputs"], training_lines(report))


@dataclass
class _Ready:
    prepared: Prepared
    options: RewardOptions
    _scorer: Callable[[], Scored] | None = field(default=None, init=False)

    def fit(self, **told: Any) -> dict[str, Any]:
        from kat.training.train import fit

        ready = self.prepared
        return fit(ready.model, ready.train, ready.weights, self.options, selection=ready.selection, **told)

    def scores(self) -> Scored:
        from kat.training.train import scorer_of

        if self._scorer is None:
            self._scorer = scorer_of(self.prepared.model, self.prepared.validation, self.options)
        return self._scorer()

    def save(self, folder: Path) -> None:
        from kat.training.train import save_model

        save_model(self.prepared.model, folder)


def kept_in(options: RewardOptions) -> dict[str, Any]:
    """Return what is recorded of a cache of activations: they round, wherever they are kept."""
    return {"kept_activations": True} if options.activation_cache else {}


def train_rm(
    folder: Path,
    out: Path | None,
    pair_weights: str | None,
    options: RewardOptions,
    run_options: RunOptions,
) -> Path:
    """Train a reward model on RUN's pairs, see `train_on_run`; return the folder written."""
    return train_on_run(
        RewardTraining(options), folder, out, pair_weights, run_options=run_options, more=kept_in(options)
    )


def train_rm_origin(
    pairs_path: Path,
    prompts_path: Path,
    weights_path: Path,
    out: Path,
    options: RewardOptions,
    *,
    origin: OriginOptions,
    run_options: RunOptions,
    reading: ReadOptions = ReadOptions(),
    name: str | None = None,
) -> None:
    """Train as the origin's command does: weights joined by opening id, its own split, uniform unless `density`.

    Raises MismatchError for a pair whose opening has no weight, unless `missing_weight` is "one", and OptionError for
    weights that are of contexts: the origin's ids are of openings.
    """
    from kat.density.storage import load_density_mapping

    for path in (prompts_path, weights_path.parent):
        if ((readable_manifest(path) or {}).get("options") or {}).get("unit") == "context":
            raise OptionError(
                f"{path} was made with --unit context, and ids of contexts are no ids of openings, which this command "
                "joins by. Use kat weigh-pairs and kat train-rm."
            )
    w = load_density_mapping(prompts_path, weights_path) if origin.density else {}
    facts: dict[str, Any] = {"pairs": str(pairs_path), "weights": "uniform", "run": name}
    if origin.density:
        facts |= {"weights": "density", "pairs_without_weight": 0}

    def weighed() -> Iterator[WeighedPair]:
        reader = PairReader(pairs_path, run_options.max_bad_rows, options=reading.within(run_options))
        for pair in with_progress(reader, "pairs"):
            value = w.get(pair.prefix.id) if origin.density else 1.0
            if value is None:
                if origin.missing_weight != "one":
                    raise MismatchError(
                        f"{pairs_path}: row {pair.row:,}: opening {pair.prefix.id} has no weight in {weights_path}. "
                        "Make the weights of these pairs, or add --missing_weight one."
                    )
                facts["pairs_without_weight"] += 1
                value = 1.0
            part = "validation" if validates(pair.prefix.id, origin.val_ratio, origin.val_seed) else "train"
            yield WeighedPair(pair, pair.id, part, value, value)
        if reader.stats.bad:
            facts["bad_rows"] = reader.bad_rows.places()

    def weigh(values: np.ndarray) -> np.ndarray:
        return origin_weights(values, origin.weight_mode, origin.weight_cap) if origin.density else np.ones(len(values))

    inputs: dict[str, Path | HashedInput] = {"pairs": pairs_path}
    if origin.density:
        inputs |= {"weights": weights_path, "ids": weights_path.parent / IDS, "prompts": prompts_path}
    train_weighed(
        RewardTraining(options),
        weighed,
        {},
        out,
        inputs,
        run_options=run_options,
        facts=facts,
        more=kept_in(options)
        | recorded(origin)
        | {"max_bad_rows": run_options.max_bad_rows}
        | recorded_reading(reading.within(run_options)),
        weigh=weigh,
    )
