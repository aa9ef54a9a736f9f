"""Files of rewards, and the pairs they belong to → a report by density bin, and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kat.artifacts import json_bytes
from kat.config import RunOptions, recorded
from kat.errors import InputError, MismatchError, OptionError
from kat.evaluation.evaluate import compare, compare_with_longer, evaluate
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.scores import Scores, check_same_pairs, pairs_of, read_scores
from kat.evidence_config import EvaluateOptions
from kat.pair_weights.facts import who_pays
from kat.pair_weights.storage import PairWeights, read_pair_weights
from kat.records import OPENING, Unit
from kat.reports.console.evaluate_rm import evaluation_lines, evaluation_summary
from kat.reports.drawing import why_not_drawn
from kat.run_folder import EVALUATION, FIGURE, VALIDATION_SCORES, RunFolder, weigh_again
from kat.stages.stage import stage


def evaluate_rewards(
    scores: list[Path], out: Path, pair_weights: Path | None, options: EvaluateOptions, run_options: RunOptions
) -> None:
    """Write OUT/evaluation.json and OUT/evaluation.png of one file of rewards, or of two to compare.

    With `pair_weights`, a file or the folder of its run, pairs are those of its `split`, joined by pair id, with
    their openings, bins and lengths; a pair that has no reward is an error past `missing_scores`, and a reward that
    has no pair always is. Raises InputError for a model's folder in the place of its rewards.
    """
    if not 1 <= len(scores) <= 2:
        raise OptionError(f"{len(scores)} files of rewards were given; expected one, or two to compare.")
    for path in scores:
        if (rewards := path / VALIDATION_SCORES).is_file():
            raise InputError(f"{path} is a folder of kat. Name the rewards in it: {rewards}")
    inputs = {f"scores_{i}": path for i, path in enumerate(scores, 1)}
    if pair_weights is not None:
        if pair_weights.is_dir():
            pair_weights = RunFolder(pair_weights).pair_weights()
            if not pair_weights.is_file():
                raise InputError(f"{pair_weights} does not exist. Make it with: {weigh_again(pair_weights)}")
        inputs["pair_weights"] = pair_weights
    with stage(
        "evaluate-rm",
        out,
        inputs=inputs,
        options=_recorded(options, run_options, pair_weights),
        files=(EVALUATION,),
        rejects=True,
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        allowed, most = run_options.max_bad_rows, run_options.max_line_bytes
        read = [read_scores(path, allowed, job.rejected.write, max_line_bytes=most) for path in scores]
        if len(read) == 2:
            check_same_pairs(*read)
        table = None if pair_weights is None else read_pair_weights(pair_weights)
        pairs, missing = _joined(read[0], table, options)
        facts = _evaluated(pairs, read, options)
        if table is not None:
            trains = table.split == "train"
            facts["pays"] = who_pays(table.bin[trains], table.src[trains], table.v[trains])
        facts["pairs_without_opening"] = 0 if pair_weights else sum(opening is None for opening in read[0].opening)
        facts["files"] = _shown(scores)
        facts |= {"split": options.split if pair_weights else None, "pairs_without_scores": missing}
        (job.folder / EVALUATION).write_bytes(json_bytes(facts))
        unit = unit_of_pairs(pair_weights)
        details = evaluation_lines(facts, unit)
        if (why := why_not_drawn()) is not None:
            details.append(f"no figure: {why}")
        else:
            from kat.reports.figures import draw_evaluation

            draw_evaluation(facts, job.folder / FIGURE, unit)
        job.bad_rows = sum(one.bad for one in read)
        job.say(evaluation_summary(facts, unit), details)


def unit_of_pairs(pair_weights: Path | None) -> Unit:
    """What the weights' run weighed; openings where the weights stand by themselves, which do not say it."""
    try:
        return OPENING if pair_weights is None else RunFolder(pair_weights).words
    except (InputError, MismatchError):
        return OPENING


def _shown(scores: list[Path]) -> list[str]:
    """What files are called in a report: their names, with their folders' where these are the same."""
    names = [path.name for path in scores]
    return names if len(set(names)) == len(names) else [f"{path.resolve().parent.name}/{path.name}" for path in scores]


def _recorded(options: EvaluateOptions, run_options: RunOptions, pair_weights: Path | None) -> dict[str, Any]:
    return {
        "split": options.split if pair_weights else None,
        "missing_scores": options.missing_scores,
        **recorded(run_options),
        "replicates": options.replicates,
        "seed": options.seed,
    }


def _evaluated(pairs: EvalPairs, read: list[Scores], options: EvaluateOptions) -> dict[str, Any]:
    """Everything that the rewards show, as plain values."""
    draws: Any = {"replicates": options.replicates, "seed": options.seed}
    rewards = []
    for scores in read:
        rows = scores.rows(list(pairs.ids))
        rewards.append((scores.chosen[rows], scores.rejected[rows]))
    longer = [compare_with_longer(pairs, *both, **draws) for both in rewards]
    return {
        "evaluations": [evaluate(pairs, *both, **draws).as_dict() for both in rewards],
        "against_longer_wins": [None if one is None else one.as_dict() for one in longer],
        "comparison": compare(pairs, *rewards, **draws).as_dict() if len(rewards) == 2 else None,
    }


def _joined(scores: Scores, table: PairWeights | None, options: EvaluateOptions) -> tuple[EvalPairs, int]:
    """The pairs to evaluate, and how many of them have no reward."""
    if table is None:
        return pairs_of(scores), 0
    _check_known(scores, table)
    scored = set(scores.ids)
    in_split = table.split == options.split if options.split != "all" else table.split != ""
    has_scores = np.asarray([pair_id in scored for pair_id in table.pair_id])
    missing = int((in_split & ~has_scores).sum())
    if options.missing_scores != "all" and missing > int(options.missing_scores):
        first = table.pair_id[int(np.argmax(in_split & ~has_scores))]
        raise MismatchError(
            f"{scores.path} has no rewards for {missing:,} of the {int(in_split.sum()):,} {options.split} pairs, "
            f"first {first}; {options.missing_scores} allowed. Score them, or add --missing_scores all."
        )
    rows = np.flatnonzero(in_split & has_scores)
    if not len(rows):
        raise MismatchError(f"{scores.path} has no rewards for any {options.split} pair of {table.path}; see --split.")
    columns = {name: getattr(table, name)[rows] for name in ("bin", "chosen_chars", "rejected_chars")}
    names = (getattr(table, name)[rows].tolist() for name in ("pair_id", "opening_id", "src"))
    return EvalPairs(*names, **columns), missing


def _check_known(scores: Scores, table: PairWeights) -> None:
    """Raise MismatchError unless every reward has an id, and belongs to a pair of the table."""
    if scores.numbered:
        raise MismatchError(f"{scores.path} has no pair ids to join with {table.path}; give every row its pair_id.")
    known = set(table.pair_id.tolist())
    if strangers := [pair_id for pair_id in scores.ids if pair_id not in known]:
        raise MismatchError(
            f"{len(strangers):,} rewards of {scores.path} belong to no pair of {table.path}, first {strangers[0]}."
        )
