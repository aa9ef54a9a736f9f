"""What `kat evaluate-policy` measured, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.reports.console.evaluate_rm import percent
from kat.reports.console.prompts import prompt_lines
from kat.reports.evaluation_parts import bin_name


def policy_summary(facts: Mapping[str, Any]) -> str:
    """Say in one line how many prompts were answered."""
    return f"{facts['all']['prompts']:,} prompts"


def policy_lines(facts: Mapping[str, Any]) -> list[str]:
    """For people: how often the policy wins, by how much, and how far it is from its reference, by density bin."""
    before, after = facts["reference_answers"], facts["policy_answers"]
    lines = [
        f"  policy                     {facts['policy']}",
        f"  reference                  {facts['reference']}",
        f"  reward                     {', '.join(facts['rewards'])}",
        f"  mean reward                {before['reward']:.4f} before, {after['reward']:.4f} after",
        f"  tokens                     {before['tokens']:.0f} and {after['tokens']:.0f}; "
        f"{1 - before['ended']:.0%} and {1 - after['ended']:.0%} cut off",
        *prompt_lines(facts),
        "",
        f"  {'':<22}{'prompts':>8}  {'win rate':<22}{'reward gain':>12}  KL a token",
    ]
    rows = {"every prompt": facts["all"]} | {f"  {bin_name(b)}": one for b, one in facts["bins"].items()}
    for title, one in rows.items():
        kl = one["kl"]
        interval = kl.get("interval") or (None, None)
        spread = "" if None in interval else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        lines.append(
            f"  {title:<22}{one['prompts']:>8,}  {percent(one['win_rate']):<22}{one['reward_gain']['value']:>+12.4f}  "
            f"{kl['value']:.4f}{spread}"
        )
    return lines
