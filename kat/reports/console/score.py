"""What `kat score` did, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def score_summary(facts: Mapping[str, Any]) -> str:
    """Say in one line what was rewarded: pairs, or completions of prompts."""
    if "pairs" in facts:
        return f"{facts['pairs']:,} pairs, {facts['accuracy']:.1%} with the higher reward for the chosen completion"
    return (
        f"{facts['completions']:,} completions of {facts['prompts']:,} prompts, mean reward {facts['mean_reward']:.3f}"
    )


def score_lines(left_out: Mapping[str, int]) -> list[str]:
    """Say what was left out, and why."""
    return [f"  left out  {n:,}: {reason}" for reason, n in left_out.items()]
