"""What `kat train-grpo` did, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kat.reports.console.prompts import bad_row_lines, prompt_lines
from kat.reports.evaluation_parts import bin_name


def training_summary(report: Mapping[str, Any]) -> str:
    """Say in one line how long was trained on how much."""
    return f"{report['training']['steps']:,} steps on {report['prompts']:,} prompts"


def training_lines(report: Mapping[str, Any]) -> list[str]:
    """For people: what trained on what, whether the reward rose, who was asked how often, and what it looks like."""
    return [*_data_lines(report), *_training_lines(report), *_bin_lines(report), *_answer_lines(report)]


def _data_lines(report: Mapping[str, Any]) -> Iterator[str]:
    held = "of those that train" if report["fixed_train"] else "held out"
    prompts = f"{report['prompts']:,} of {report['openings']:,} openings"
    yield f"  prompts                    {prompts}, drawn by {report['drawn']}"
    cut = f"; {report['fixed_prompts_cut']:,} cut at their start" if report.get("fixed_prompts_cut") else ""
    yield f"  fixed prompts              {report['fixed_prompts']:,}, {held}{cut}"
    yield f"  reward                     {', '.join(report['rewards'])}"
    yield from bad_row_lines(report)
    yield from prompt_lines(report)


def _training_lines(report: Mapping[str, Any]) -> Iterator[str]:
    training, last, trend = report["training"], report["last"], report["trend"]
    yield (
        f"  trained                    {training['steps']:,} steps, {training['seconds']:.0f} s; "
        f"{training['tokens_a_second_generating']:,.0f} tokens/s drawn, "
        f"{training['tokens_a_second_training']:,.0f} trained on"
    )
    if trend is None:
        yield "  reward                     too few steps to say whether it rose"
    else:
        low, high = trend["interval"]
        verdict = "it rose" if low > 0 else "it fell" if high < 0 else "did not learn: the interval holds 0"
        yield f"  reward, last less first    {trend['value']:+.4f} [{low:+.4f}, {high:+.4f}]; {verdict}"
    said = f"{last['length']:.0f} tokens, {last['truncated']:.0%} cut off, {last.get('repetition', 0):.1%} repeated"
    yield (
        f"  last step                  reward {last['reward']:.4f}, KL {last['kl']:.5f}, entropy "
        f"{last['entropy']:.3f}, {said}"
    )


def _bin_lines(report: Mapping[str, Any]) -> Iterator[str]:
    counts = report["training"]["by_bin"]
    bins = sorted({b for kind in counts.values() for b in kind}, key=int)
    if bins in ([], ["-1"]):
        return
    yield f"  {'':<26} {'drawn':>9}{'dropped':>9}{'trained':>9}{'tokens':>12}"
    for b in bins:
        numbers = [counts[kind].get(b, 0) for kind in ("drawn", "dropped", "trained")]
        yield (
            f"  {bin_name(b):<26} " + "".join(f"{n:>9,}" for n in numbers) + f"{counts['loss_tokens'].get(b, 0):>12,}"
        )


def _answer_lines(report: Mapping[str, Any]) -> Iterator[str]:
    rows = report["answers"]
    if len(rows) < 2:
        return
    first, last = rows[0], rows[-1]
    yield (
        f"  fixed prompts, reward      {first['reward']:.4f} before, {last['reward']:.4f} after; KL {last['kl']:.5f}, "
        f"{first['tokens']:.0f} and {last['tokens']:.0f} tokens"
    )
