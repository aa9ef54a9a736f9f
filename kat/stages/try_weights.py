"""What each weighting would do on a run's own pairs: cross-validated reward heads, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.artifacts import json_bytes
from kat.config import RunOptions, recorded, recorded_as
from kat.data.columns import reading_of
from kat.data.pair_columns import collect_columns
from kat.data.pairs import PairReader
from kat.data.texts import rows_of
from kat.evaluation.metrics import log_losses, wins
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.weightings import RARE, Tried, best_of, tried_facts
from kat.inputs import input_paths
from kat.integrations.rows import weighed_pairs
from kat.models.digests import model_inputs
from kat.models.sources import resolve
from kat.pair_config import PairOptions, TryOptions
from kat.pair_weights.duplicates import Sketches
from kat.pair_weights.specs import UNIFORM, flags_of, weightings_of
from kat.pair_weights.storage import PairWeights
from kat.pair_weights.table import pair_table
from kat.pair_weights.weighting import TrainingPairs, label_columns, opening_clusters, weigh_table
from kat.records import Pair
from kat.reports.console.try_weights import sentence, tried_lines, tried_summary
from kat.reports.drawing import why_not_drawn
from kat.run_folder import FEATURES, LOG_DENSITY, TRIED, TRIED_FIGURE, WEIGHTS, RunFolder
from kat.stages.stage import stage, with_progress
from kat.stages.weigh_pairs import read_weights, unchanged_pairs
from kat.terminal import bar_off
from kat.training_config import RewardOptions

if TYPE_CHECKING:
    from kat.training.tokens import TokenPairs

DEFAULT = "density,blend=0.5,blend=0.25,smooth"
WITHIN = "within"
FOR_THE_RARE = "uniform, L2 tuned for the rare"
"""A uniform head whose L2 is tuned for the rarest fifth: what weights are to be better than."""
DRAWS = 4
"""Permutations drawn for one that is fitted; `kat weigh-pairs --control permuted` takes more."""


@dataclass(frozen=True, eq=False)
class Ready:
    """Pairs to try weightings on: differences of features `x` [P, D], the table's rows [P], and what weighs them."""

    x: np.ndarray
    rows: np.ndarray
    table: PairWeights
    training: TrainingPairs
    clusters: np.ndarray | None
    specs: dict[str, PairOptions]
    read: dict[str, Any]
    bad_rows: int


def try_weights(folder: Path, out: Path | None, options: TryOptions, run_options: RunOptions) -> Path:
    """Write OUT/weightings.json and OUT/weightings.png, RUN/try_weights by default; return OUT.

    Of the pairs that train, by the split of RUN's pair weights if there are some: those that validate stay unseen.
    Raises InputError for pairs that changed, OptionError for a weighting that is none, ModelError for a model that
    cannot be loaded.
    """
    run = RunFolder(folder)
    pairs, _ = unchanged_pairs(run)
    base = _pair_options(run)
    weightings_of(options.weightings or DEFAULT, base)  # a word that is none is said before anything is written
    model = resolve(options.model, allow_network=options.allow_network)
    out = out or run.root / "try_weights"
    with stage(
        "try-weights",
        out,
        inputs={
            "pairs": input_paths(pairs),
            "weights": run.density / WEIGHTS,
            "density": run.density / LOG_DENSITY,
            **model_inputs(model),
        },
        options=recorded(options) | {"pairs": recorded(base)},
        files=(TRIED,),
        reads=run.density.iterdir(),
        apart=run.read_apart,
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return out
        ready = prepared_pairs(run, options, run_options)
        tried, facts = _tried(ready, options)
        facts |= {"model": options.model, "folds": options.folds, "seeds": options.seeds}
        facts["flags"] = {name: flags_of(spec, PairOptions()) for name, spec in ready.specs.items()}
        facts["best"] = None if (best := best_of(tried)) is None else best.name
        facts["sentence"] = sentence(facts)
        (job.folder / TRIED).write_bytes(json_bytes(facts))
        details = tried_lines(facts)
        if (why := why_not_drawn()) is not None:
            details.append(f"no figure: {why}")
        else:
            from kat.reports.figures import draw_tried

            draw_tried(facts, job.folder / TRIED_FIGURE)
        job.say(tried_summary(facts), details)
    return out


def prepared_pairs(run: RunFolder, options: TryOptions, run_options: RunOptions) -> Ready:
    """Return the pairs of a run that train with their features, computed once and kept in the run's folder.

    Raises what `try_weights` raises.
    """
    pairs, manifest = unchanged_pairs(run)
    base = _pair_options(run)
    allowed: int | str = run_options.max_bad_rows or manifest["options"].get("max_bad_rows", 0)
    reading = reading_of(manifest).within(run_options)
    reader = partial(PairReader, pairs, allowed, options=replace(reading, unit=run.unit))
    specs = weightings_of(options.weightings or f"{DEFAULT},{WITHIN}", base)
    return _prepared(run, reader, specs, base, options=options, device=run_options.device)


def _pair_options(run: RunFolder) -> PairOptions:
    """The options of the run's pair weights where there are some, so that the split is theirs; else the defaults."""
    path = run.pair_weights()
    held = (run.manifest(path) or {}).get("options", {}) if path.is_file() else {}
    kept = ("split", "validation_share", "group_cosine", "missing_weight", "duplicates", "seed", "cap", "clusters")
    return recorded_as(PairOptions, {name: held[name] for name in kept if name in held}, path)


def _prepared(
    run: RunFolder,
    reader: Any,
    specs: dict[str, PairOptions],
    base: PairOptions,
    *,
    options: TryOptions,
    device: str,
) -> Ready:
    """Read the pairs twice: their columns, from which the split follows; then the texts of those that train."""
    texts = Sketches()
    labels = tuple(dict.fromkeys(name for spec in specs.values() for name in label_columns(spec)))
    pairs = reader(labels=labels)
    columns = collect_columns(texts.watch(with_progress(pairs, "pairs")))
    weights, search = read_weights(run)
    table, table_facts = pair_table(columns, weights, texts, base, search, device=device)
    if options.weightings is None and len(columns.src.names) == 1:
        specs = {name: spec for name, spec in specs.items() if name != WITHIN}
    x, ids, read = _features(run, with_progress(_training(reader(), table), "pairs"), options, device)
    place = {pair_id: row for row, pair_id in enumerate(table.pair_id.tolist())}
    rows = np.asarray([place[one] for one in ids], np.int64)
    read |= {name: table_facts[name] for name in ("left_out", "openings_without_weight") if table_facts[name]}
    places = rows_of(columns.opening_ids, weights.embeddings.ids)
    trains = np.zeros(len(places), bool)
    trains[columns.opening[rows]] = True
    training = TrainingPairs(
        columns=columns,
        rows=rows,
        w=np.where(places >= 0, np.asarray(weights.w, np.float64)[places], 1.0),
        trains=trains,
        length=np.ones(len(places)),
        vectors=weights.embeddings.vectors,
        place=places,
        ess=search.ess,
        cap=search.cap,
    )
    clusters = next((c for s in specs.values() if (c := opening_clusters(training, s)) is not None), None)
    told: dict[str, Any] = {"training": training, "clusters": clusters, "specs": specs, "read": read}
    told["bad_rows"] = pairs.stats.bad
    return Ready(x, rows, table, **told)


def _training(pairs: Iterator[Pair], table: PairWeights) -> Iterator[Pair]:
    for one in weighed_pairs(pairs, table):
        if one.part == "train":
            yield replace(one.pair, id=one.pair_id)


def _features(
    run: RunFolder, pairs: Any, options: TryOptions, device: str
) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Return the differences of the features of chosen and rejected completions [P, D], the pairs' ids, how many
    were dropped and why, and how many prompts were read in part."""
    from kat.training.features import branch_features
    from kat.training.rewarders import branches_of, first_branches
    from kat.training.tokens import prompt_facts
    from kat.training.train import load_reward_model, tokens_of

    reward = RewardOptions(
        model=options.model,
        train="head",
        max_len=options.max_len,
        min_prompt=options.min_prompt,
        long_completions=options.long_completions,
        allow_network=options.allow_network,
    )
    model = load_reward_model(reward, device)
    data: TokenPairs = tokens_of(model, pairs, reward)
    needed = branches_of(data)
    told: dict[str, Any] = {"progress": True, "cache": run.root / FEATURES}
    features = branch_features(model, data, needed, reward.row_tokens, **told).cpu().numpy()
    first = first_branches(data.prompts)[data.prompt]
    chosen, rejected = (
        features[np.searchsorted(needed, first + side)].reshape(len(data), -1) for side in (data.chosen, data.rejected)
    )
    return (
        chosen - rejected,
        list(data.ids),
        {"dropped": dict(data.dropped), **prompt_facts(data.cut, data.tools_unread)},
    )


def _tried(ready: Ready, options: TryOptions) -> tuple[list[Tried], dict[str, Any]]:
    """Fit all heads, and compare what they say with uniform."""
    from tqdm import tqdm

    from kat.devices import torch_threads
    from kat.training.trials import Arm, cross_validate

    table, rows = ready.table, ready.rows
    rare = table.bin[rows] == 0
    arms = [Arm(UNIFORM, _ones), Arm(FOR_THE_RARE, _ones, tuned_on=rare if rare.any() else None)]
    arms += [
        Arm(name, partial(_weights, ready, spec), partial(_permuted, ready, spec) if options.permutations else None)
        for name, spec in ready.specs.items()
    ]
    total = options.folds * options.seeds
    with torch_threads(), tqdm(total=total, desc="heads", unit="fold", disable=bar_off(), delay=2) as bar:
        trials = cross_validate(
            ready.x,
            table.group[rows],
            arms,
            folds=options.folds,
            seeds=options.seeds,
            permutations=options.permutations,
            seed=options.seed,
            on_fold=bar.update,
        )
    pairs = EvalPairs(
        ids=table.pair_id[rows].tolist(),
        opening=table.opening_id[rows].tolist(),
        src=table.src[rows].tolist(),
        bin=table.bin[rows],
    )
    tried = trials.compared(pairs, replicates=options.replicates, seed=options.seed)
    plain = trials.margins[0].mean(0)
    parts = {"every pair": np.ones(len(rows), bool)} | {f"bin {b}": table.bin[rows] == b for b in range(5)}
    uniform = {
        name: {
            "pairs": int(own.sum()),
            "accuracy": float(wins(plain[own]).mean()),
            "log_loss": float(log_losses(plain[own]).mean()),
        }
        for name, own in parts.items()
        if own.any()
    }
    strengths = {name: float(np.median(trials.strengths[a])) for a, name in enumerate(trials.names)}
    return tried, {
        "pairs": len(rows),
        "openings": len(set(pairs.opening)),
        "bad_rows": ready.bad_rows,
        **ready.read,
        "features": int(ready.x.shape[1]),
        "uniform": uniform,
        "weightings": [tried_facts(one) for one in tried],
        "l2": strengths,
        "permutations": options.permutations,
        "rare": RARE,
    }


def _ones(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows))


def _weights(ready: Ready, spec: PairOptions, rows: np.ndarray) -> np.ndarray:
    own = replace(ready.training, rows=ready.rows[rows])
    return weigh_table(own, spec, ready.clusters)[0].values


def _permuted(ready: Ready, spec: PairOptions, rows: np.ndarray, number: int) -> np.ndarray:
    own = replace(ready.training, rows=ready.rows[rows])
    control = replace(spec, control="permuted", control_seed=number)
    return weigh_table(own, control, ready.clusters, draws=DRAWS)[0].values
