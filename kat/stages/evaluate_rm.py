"""The stage that judges reward models: files of rewards, and the pairs they belong to, → a report and a figure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from kat import artifacts
from kat.artifacts import is_done, manifest, seal, whole_folder
from kat.config import RunOptions, one_of, whole_number
from kat.errors import MismatchError, OptionError
from kat.evaluation.evaluate import compare, compare_with_longer, evaluate
from kat.evaluation.pairs import EvalPairs
from kat.evaluation.scores import Scores, check_same_pairs, pairs_of, read_scores
from kat.stages.stage import check_output, input_hash, rejected_path, said, said_rejected, skipped

FILES = ("evaluation.json",)
PARTS = ("validation", "train", "all")


def evaluate_scores(
    scores: list[Path],
    out: Path,
    pair_weights: Path | None,
    split: str,
    missing_scores: int | str,
    replicates: int,
    seed: int,
    how: RunOptions,
) -> None:
    """One or two files of rewards → OUT/evaluation.json, OUT/evaluation.png, and tables in print.

    With `pair_weights`, pairs are those of its `split`, joined by pair id, with their openings, bins and lengths; a
    pair that has no reward is an error past `missing_scores`, and a reward that has no pair always is.
    """
    from kat.reports.console.evaluate_rm import evaluation_lines

    one_of("split", split, PARTS)
    whole_number("replicates", replicates)
    if not 1 <= len(scores) <= 2:
        raise OptionError(f"{len(scores)} files of rewards were given; expected one, or two to compare.")
    for made in (out / name for name in FILES):
        check_output(made, *scores)
    inputs = {f"scores_{i}": input_hash(path) for i, path in enumerate(scores, 1)}
    if pair_weights is not None:
        inputs["pair_weights"] = input_hash(pair_weights)
    options = {
        "split": split if pair_weights else None,
        "missing_scores": missing_scores,
        "max_bad_rows": how.max_bad_rows,
    }
    wanted = manifest("evaluation", inputs, options | {"replicates": replicates, "seed": seed})
    if is_done(out, wanted, FILES, overwrite=how.overwrite):
        return skipped("evaluate", out)
    began = time.monotonic()
    with artifacts.whole_files(rejected_path(out)) as (bad,):
        read = [read_scores(path, how.max_bad_rows, bad.write) for path in scores]
    said_rejected(out, sum(one.bad for one in read))
    if len(read) == 2:
        check_same_pairs(*read)
    pairs, missing = _joined(read[0], pair_weights, split, missing_scores)
    facts = _judged(pairs, read, replicates, seed)
    facts["pairs_without_opening"] = 0 if pair_weights else sum(one is None for one in read[0].opening)
    facts |= {"files": [path.name for path in scores], "split": options["split"], "pairs_without_scores": missing}
    with whole_folder(out) as folder:
        (folder / "evaluation.json").write_bytes(artifacts.json_bytes(facts))
        drawn = _draw(facts, folder / "evaluation.png")
        seal(folder, wanted)
    said("evaluate", f"{len(pairs):,} pairs of {facts['evaluations'][0]['all']['openings']:,} openings", out, began)
    print("\n".join(evaluation_lines(facts)))
    if not drawn:
        print('no figure: matplotlib is not installed. Type: pip install "kat[figures]"')


def default_out(scores: list[Path]) -> Path:
    """A folder beside the first file, named by what is judged."""
    names = [path.name.split(".")[0] for path in scores]
    return scores[0].with_name("-".join(names) + ".evaluation")


def _judged(pairs: EvalPairs, read: list[Scores], replicates: int, seed: int) -> dict[str, Any]:
    """Everything that is found out, as plain values."""
    how = {"replicates": replicates, "seed": seed}
    rewards = [(one.chosen[rows], one.rejected[rows]) for one in read for rows in [one.rows(list(pairs.ids))]]
    longer = [compare_with_longer(pairs, *one, **how) for one in rewards]
    facts: dict[str, Any] = {
        "evaluations": [evaluate(pairs, *one, **how).as_dict() for one in rewards],
        "against_longer_wins": [None if one is None else one.as_dict() for one in longer],
        "comparison": compare(pairs, *rewards, **how).as_dict() if len(rewards) == 2 else None,
    }
    return facts


def _joined(scores: Scores, pair_weights: Path | None, split: str, missing_scores: int | str) -> tuple[EvalPairs, int]:
    """The pairs to evaluate, and how many of them have no reward."""
    if pair_weights is None:
        return pairs_of(scores), 0
    from kat.pair_weights.storage import read_pair_weights

    table = read_pair_weights(pair_weights)
    if scores.numbered:
        raise MismatchError(f"{scores.path} has no pair ids to join with {pair_weights}; give every row its pair_id.")
    known, given = set(table.pair_id.tolist()), set(scores.ids)
    if strange := [one for one in scores.ids if one not in known]:
        raise MismatchError(
            f"{len(strange):,} rewards of {scores.path} belong to no pair of {pair_weights}, first {strange[0]}."
        )
    asked = table.split == split if split != "all" else table.split != ""
    there = np.asarray([one in given for one in table.pair_id])
    missing = int((asked & ~there).sum())
    if missing_scores != "all" and missing > int(missing_scores):
        first = table.pair_id[int(np.argmax(asked & ~there))]
        raise MismatchError(
            f"{scores.path} has no rewards for {missing:,} of the {int(asked.sum()):,} {split} pairs, first {first}; "
            f"{missing_scores} allowed. Score them, or add --missing_scores all."
        )
    rows = np.flatnonzero(asked & there)
    if not len(rows):
        raise MismatchError(f"{scores.path} has no rewards for any {split} pair of {pair_weights}; see --split.")
    columns = {name: getattr(table, name)[rows] for name in ("bin", "chosen_chars", "rejected_chars")}
    names = (getattr(table, name)[rows].tolist() for name in ("pair_id", "opening_id", "src"))
    return EvalPairs(*names, **columns), missing


def _draw(facts: dict[str, Any], path: Path) -> bool:
    """Draw the figure, if there is something to draw it with."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return False
    from kat.reports.figures import draw_evaluation

    draw_evaluation(facts, path)
    return True
