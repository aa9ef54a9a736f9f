"""What `kat score` did, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.reports.console.prompts import prompt_lines


def score_summary(facts: Mapping[str, Any]) -> str:
    """Say in one line what was rewarded: pairs, or completions of prompts."""
    if "pairs" in facts:
        return f"{facts['pairs']:,} pairs, {facts['accuracy']:.1%} with the higher reward for the chosen completion"
    return (
        f"{facts['completions']:,} completions of {facts['prompts']:,} prompts, mean reward {facts['mean_reward']:.3f}"
    )


def score_lines(facts: Mapping[str, Any]) -> list[str]:
    """Say how it went with pairs that train and pairs that validate, and what was left out or cut, and why."""
    parts = facts.get("parts", {})
    lines = [f"  {name:<10}  {one['pairs']:,} pairs, {one['accuracy']:.1%}" for name, one in parts.items()]
    if "train" in parts:
        lines[list(parts).index("train")] += "; a model that trained on them knows them"
    lines += [f"  left out    {n:,}: {reason}" for reason, n in facts["left_out"].items()]
    return [*lines, *prompt_lines(facts)]
