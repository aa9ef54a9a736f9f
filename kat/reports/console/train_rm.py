"""What `kat train-rm` did, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kat.reports.console.evaluate_rm import percent
from kat.reports.console.pays import pay_lines
from kat.reports.console.prompts import bad_row_lines, prompt_lines
from kat.reports.evaluation_parts import bin_name


def training_summary(report: Mapping[str, Any]) -> str:
    """Say in one line how long was trained on how much."""
    return f"{report['training']['steps']:,} steps over {report['train_pairs']:,} pairs"


def training_lines(report: Mapping[str, Any]) -> list[str]:
    """For people: what trained on what, what was left out, the accuracy on the validation pairs, and who pays."""
    training = [*_training_lines(report["training"]), *_validation_lines(report)]
    return [*_data_lines(report), *training, *pay_lines(report.get("pays", {}))]


def _data_lines(report: Mapping[str, Any]) -> Iterator[str]:
    train, ess = report["train_pairs"], report["ess_pairs"]
    yield f"  pairs                      {train:,} train, {report['validation_pairs']:,} validate"
    share = f"effective sample size {ess:,.0f} pairs ({ess / train:.0%})"
    yield f"  weights                    {report['weights']}; {share}"
    if "pairs_without_weight" in report:
        yield f"  pairs without a weight     {report['pairs_without_weight']:,}, of weight 1"
    for reason, bins in report["dropped_by_bin"].items():
        places = ", ".join(f"{'no bin' if b == '-1' else f'bin {b}'}: {n:,}" for b, n in bins.items())
        yield f"  left out                   {sum(bins.values()):,}: {reason} ({places})"
    if report.get("pairs_without_margin"):
        yield f"  pairs without a margin     {report['pairs_without_margin']:,}, where others have one: it counts as 0"
    yield from bad_row_lines(report)
    yield from prompt_lines(report)


def _training_lines(training: Mapping[str, Any]) -> Iterator[str]:
    trained = training["pairs_trained"]
    yield f"  trained                    {training['steps']:,} steps, {trained:,} pairs, {training['seconds']:.0f} s"
    if report_selection := training.get("best_step"):
        yield f"  kept                       step {report_selection:,}, of the lowest loss on the pairs that select"
    tokens = training["tokens"]
    if tokens["separate"]:
        yield (
            f"  tokens a pair              {tokens['tokens'] / trained:,.0f}; each sequence by itself "
            f"{tokens['separate'] / trained:,.0f}"
        )
    if training["pairs_never_seen"]:
        yield f"  pairs never seen           {training['pairs_never_seen']:,}"
    if training["clipped_steps"]:
        # Equal weights, all of them or those at the cap, are in one tenth, and leave others without a pair.
        lost = [share for share in training["weight_lost_to_clipping_by_weight_decile"] if share is not None]
        shares = f"lightest tenth {lost[0]:.0%}, heaviest {lost[-1]:.0%}" if len(lost) > 1 else f"{lost[0]:.0%}"
        yield f"  clipped                    {training['clipped_steps']:.0%} of the steps; weight lost: {shares}"


def _validation_lines(report: Mapping[str, Any]) -> Iterator[str]:
    evaluation = report.get("validation")
    if evaluation is None:
        yield "  no validation pairs"
        return
    rows = [("accuracy, every pair", evaluation["all"]["unweighted"], evaluation["all"])]
    rows += [("accuracy, every opening", evaluation["all"]["balanced"], evaluation["all"])]
    rows += [(bin_name(b), part["unweighted"], part) for b, part in evaluation["bins"].items()]
    for title, estimates, part in rows:
        yield f"  {title:<26} {percent(estimates['accuracy']):<22} of {part['pairs']:,} pairs"
