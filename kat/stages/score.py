"""A reward model, or a policy, and pairs or completions → rewards; those of pairs as `kat evaluate-rm` reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.config import ReadOptions, RunOptions, recorded
from kat.data.columns import reading_flags, reading_of, recorded_reading
from kat.data.completions import CompletionReader, hold_completions
from kat.data.conversations import trim
from kat.data.pairs import PairReader
from kat.errors import InputError, ModelError, OptionError
from kat.inputs import HashedInput, Inputs, input_paths
from kat.integrations.rows import weighed_pairs
from kat.journal import computing, discard_work
from kat.models.digests import model_inputs
from kat.models.sources import ModelSource, resolve
from kat.pair_weights.storage import read_pair_weights
from kat.records import Pair, Prefix
from kat.reports.console.score import score_lines, score_summary
from kat.run_folder import RunFolder
from kat.stages.export_weights import source_of_weights
from kat.stages.policy_scores import Implicit, ImplicitScorer, checkpoints, implicit_of
from kat.stages.stage import stage, with_progress
from kat.training_config import RewardOptions, ScoreOptions, trained_limits

if TYPE_CHECKING:
    from kat.training.tokens import TokenPairs


def score(
    model: str,
    pairs: Inputs,
    out: Path,
    options: ScoreOptions,
    run_options: RunOptions,
    *,
    reading: ReadOptions = ReadOptions(),
) -> bool:
    """Write OUT, a row {"pair_id", "chosen", "rejected", "opening_id", "src"} for every pair, in the pairs' order.

    Rows of completions (`kat.data.completions`) instead of pairs give {"id", "reward" or "rewards", "opening_id"}.

    `pairs` are files of pairs, or one folder of a run with pair weights (or these themselves): then its pairs that
    train or validate, under the ids that they have there. A pair of two equal completions gets two equal rewards.
    Returns whether it was pairs.
    """
    reading = reading.within(run_options)
    place = resolve(model, allow_network=options.allow_network)
    limits = _limits(place, options)
    implicit = implicit_of(place, options, limits)
    with_table = weighed_in(pairs)
    source, inputs = _source(pairs, with_table)
    completions = with_table is None and hold_completions(source, reading.max_line_bytes)
    reading = _reading_of(with_table, reading) if with_table else reading
    with stage(
        "score",
        out,
        inputs=inputs | model_inputs(place) | ({} if implicit is None else implicit.inputs),
        options=recorded(options)
        | limits
        | ({} if implicit is None else implicit.recorded)
        | {"max_bad_rows": run_options.max_bad_rows}
        | recorded_reading(reading),
        apart=[place.path] if implicit is None else [place.path, implicit.reference.path],
        rejects=True,
        overwrite=run_options.overwrite,
    ) as job:
        places = checkpoints(out)[: 1 if implicit is None else 2]
        if job.done:
            _discard(places, job.manifest)
            return not completions
        from kat.training.scoring import ScoreCheckpoint
        from kat.training.tokens import prompt_facts
        from kat.training.train import precision_of, tokens_of

        training = replace(
            RewardOptions(model=model, **limits),
            long_completions=options.long_completions,
            precision=options.precision,
            row_tokens=options.row_tokens,
            allow_network=options.allow_network,
        )
        scorer = _scorer_of(implicit, training, run_options.device)
        allowed, most = run_options.max_bad_rows, reading.max_line_bytes
        rows: _Pairs | _Completions
        if completions:
            rows = _Completions(CompletionReader(source, allowed, job.rejected.write, max_line_bytes=most))
        else:
            rows = _Pairs(PairReader(source, "all" if with_table else allowed, job.rejected.write, reading), with_table)
        assert scorer.model is not None
        data = tokens_of(scorer.model, rows, training, identical="keep", seen=rows.seen)
        job.bad_rows = rows.bad
        _check_left(data)
        with contextlib.ExitStack() as stack:
            asked, again = computing(job.manifest, precision_of(training, run_options.device)), run_options.overwrite
            kept = [stack.enter_context(ScoreCheckpoint(one, asked, overwrite=again)) for one in places]
            chosen, rejected = scorer.rewards(data, kept)
        _check_finite(data, chosen, rejected, place)
        for row in rows.written(data.ids, chosen.tolist(), rejected.tolist()):
            job.file.write(orjson.dumps(row) + b"\n")
        unread = {"left_out": dict(data.dropped), **prompt_facts(data.cut, data.tools_unread)}
        job.facts["report"] = rows.facts(data.ids, chosen, rejected) | unread
        job.say(score_summary(job.facts["report"]), score_lines(job.facts["report"]))
    for one in kept:
        one.remove()
    return not completions


def _reading_of(table: Path, told: ReadOptions) -> ReadOptions:
    """Return how the pairs of pair weights were read. Raises OptionError if another reading was told."""
    weighed = reading_of(RunFolder(table).manifest(table) or {})
    if recorded_reading(told) not in ({}, recorded_reading(weighed)):
        raise OptionError(
            f"{table} holds pairs that were read with{reading_flags(weighed) or ' the defaults'}, and are "
            f"read so here. Leave out{reading_flags(told)}, or name the file of pairs instead."
        )
    return weighed


def _check_left(data: TokenPairs) -> None:
    """Raise InputError with the reasons if no pair is left to score."""
    if not len(data):
        reasons = "".join(f" {n:,} left out: {reason}." for reason, n in data.dropped.items())
        raise InputError(f"Nothing is left to score.{reasons} Raise --max_len, or name other pairs.")


def _check_finite(data: TokenPairs, chosen: np.ndarray, rejected: np.ndarray, place: ModelSource) -> None:
    bad = ~(np.isfinite(chosen) & np.isfinite(rejected))
    if bad.any():
        raise ModelError(
            f"{place.name} gives {int(bad.sum()):,} of {len(bad):,} rows a reward that is no finite number, first "
            f"{data.ids[int(bad.argmax())]}. Check the model's weights, or try --precision float32."
        )


def _discard(places: Sequence[Path], made_from: Mapping[str, Any]) -> None:
    """Remove the work on scores that are complete, of a process that was killed as they had become so."""
    for folder in places:
        if folder.is_dir():
            from kat.training.scoring import FILES

            discard_work(folder, made_from, FILES)


def _scorer_of(implicit: Implicit | None, options: RewardOptions, device: str) -> _RewardScorer | ImplicitScorer:
    return _RewardScorer(options, device) if implicit is None else ImplicitScorer(implicit, device)


class _RewardScorer:
    """A reward model that rewards."""

    def __init__(self, options: RewardOptions, device: str) -> None:
        from kat.training.reward_sources import model_that_rewards

        remedy = "Score a policy with --reference POLICY, or train a reward model with kat train-rm."
        self.model, self.budget = model_that_rewards(options, device, remedy), options.row_tokens

    def rewards(self, data: TokenPairs, kept: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rewards [P] of the chosen and rejected completions. `kept` is one checkpoint."""
        from kat.training.scoring import rewards_of

        return rewards_of(self.model, data, self.budget, kept=kept[0], progress=True)


class _Pairs:
    """The pairs of a file, or of a run with pair weights, as they are read, and their rows as they are written."""

    def __init__(self, reader: PairReader, table: Path | None) -> None:
        self._reader, self._table = reader, table
        self._marks: dict[str, tuple[str, str]] = {}
        self._part: dict[str, str] = {}

    def __iter__(self) -> Iterator[Pair]:
        read: Iterable[Any] = with_progress(self._reader, "pairs")
        if self._table is None:
            yield from read
            return
        for one in weighed_pairs(read, read_pair_weights(self._table)):
            self._part[one.pair_id] = one.part
            yield replace(one.pair, id=one.pair_id)

    @property
    def bad(self) -> int:
        """Bad rows that nobody met before: a run's own were met when it was made."""
        return self._reader.stats.bad if self._table is None else 0

    def seen(self, pair_id: str, pair: Pair) -> None:
        """Remember what is written of a pair beside its rewards."""
        self._marks[pair_id] = (pair.prefix.id, pair.src)

    def written(self, ids: Sequence[str], chosen: list[float], rejected: list[float]) -> Iterator[dict[str, Any]]:
        """Yield a row a pair."""
        for pair_id, one, other in zip(ids, chosen, rejected, strict=True):
            opening, src = self._marks[pair_id]
            yield {"pair_id": pair_id, "chosen": one, "rejected": other, "opening_id": opening, "src": src}

    def facts(self, ids: Sequence[str], chosen: np.ndarray, rejected: np.ndarray) -> dict[str, Any]:
        """Return what is reported; of a run those that train and those that validate by themselves."""
        margin = chosen - rejected
        right = (margin > 0) + 0.5 * (margin == 0)
        facts: dict[str, Any] = {"pairs": len(right), "accuracy": float(right.mean())}
        part = np.asarray([self._part.get(name, "") for name in ids])
        if self._part:
            own = {name: right[part == name] for name in sorted(set(part.tolist()))}
            facts["parts"] = {name: {"pairs": len(one), "accuracy": float(one.mean())} for name, one in own.items()}
        return facts


class _Completions:
    """Prompts with completions to reward, each completion a pair of twice the same, and a row a prompt."""

    def __init__(self, reader: CompletionReader) -> None:
        self._reader = reader
        self._asked: dict[str, tuple[int, bool, str]] = {}

    def __iter__(self) -> Iterator[Pair]:
        for asked in with_progress(self._reader, "prompts"):
            self._asked[asked.id] = (len(asked.completions), asked.listed, asked.opening_id)
            prefix = Prefix(asked.opening_id, trim(asked.context))
            for number, turns in enumerate(asked.completions):
                yield Pair(
                    id=f"{number} {asked.id}",
                    prefix=prefix,
                    chosen="",
                    rejected="",
                    src="",
                    row=asked.row,
                    context=asked.context,
                    chosen_messages=turns,
                    rejected_messages=turns,
                    tools=asked.tools,
                )

    @property
    def bad(self) -> int:
        """Rows that cannot be used."""
        return self._reader.bad

    def seen(self, pair_id: str, pair: Pair) -> None:
        """Remember nothing: a prompt is remembered where it is read."""

    def written(self, ids: Sequence[str], chosen: list[float], rejected: list[float]) -> Iterator[dict[str, Any]]:
        """Yield a row a prompt: `reward`, or `rewards` where it has a list; null for what was left out."""
        reward_of = dict(zip(ids, chosen, strict=True))
        for name, (count, listed, opening) in self._asked.items():
            rewards = [reward_of.get(f"{number} {name}") for number in range(count)]
            yield {"id": name, **({"rewards": rewards} if listed else {"reward": rewards[0]}), "opening_id": opening}

    def facts(self, ids: Sequence[str], chosen: np.ndarray, rejected: np.ndarray) -> dict[str, Any]:
        """Return what is reported."""
        return {"completions": len(chosen), "prompts": len(self._asked), "mean_reward": float(chosen.mean())}


def _limits(place: ModelSource, options: ScoreOptions) -> dict[str, Any]:
    """The limits that are told, else those that the model was trained with by kat, else the defaults of training."""
    told = {name: value for name in ("max_len", "min_prompt") if (value := getattr(options, name)) is not None}
    return trained_limits(place.path) | told


def weighed_in(pairs: Inputs) -> Path | None:
    """Return the pair weights that are named by a run's folder, or themselves; None for pairs."""
    paths = input_paths(pairs)
    if len(paths) != 1:
        return None
    run = RunFolder(paths[0])
    is_table = run.pair_weights().is_file() and (run.manifest(run.pair_weights()) or {}).get("stage") == "weigh-pairs"
    return run.pair_weights() if is_table else None


def _source(pairs: Inputs, table: Path | None) -> tuple[Inputs, dict[str, Any]]:
    if table is None:
        return pairs, {"pairs": input_paths(pairs)}
    source, digest = source_of_weights(RunFolder(table), table, None)
    return source, {"pairs": HashedInput(source, digest), "pair_weights": table}
