"""What `kat weigh-pairs` did, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.data.columns import SOURCE
from kat.data.headings import Heading
from kat.records import OPENING, Unit
from kat.reports.console.pays import pay_lines
from kat.reports.console.text import heading_text

SHOWN = 10


def pair_weight_summary(facts: Mapping[str, Any]) -> str:
    """Say in one line how many pairs there are, and how many train."""
    return f"{facts['pairs']:,} pairs, {facts['weights']['pairs']:,} of them weighed"


def pair_weight_lines(facts: Mapping[str, Any], openings: Mapping[str, Heading], unit: Unit = OPENING) -> list[str]:
    """For people. `facts` are those of `kat.pair_weights.table`; `openings` the texts of the heaviest."""
    return [
        *_source_lines(facts, unit),
        *_split_lines(facts["split"], unit),
        *_weight_lines(facts["weights"], unit),
        *_kind_lines(facts),
        *_bin_lines(facts, unit),
        *pay_lines(facts["pays"]),
        *_heaviest_lines(facts["heaviest"], openings, unit),
        *(f"  WARNING  {warning}" for warning in facts["warnings"]),
    ]


def _source_lines(facts: Mapping[str, Any], unit: Unit) -> list[str]:
    lines = [f"  pairs                      {facts['pairs']:,} of {unit.count(facts['openings'])}"]
    lines += [f"  left out                   {n:,}: {reason}" for reason, n in facts["left_out"].items()]
    if facts["openings_without_weight"]:
        lines.append(f"  {unit.several} without weight    {facts['openings_without_weight']:,}")
    if facts["exact_duplicates"]:
        kept = "left out" if facts["left_out"] else "kept; --duplicates drop leaves them out"
        lines.append(f"  exact duplicates           {facts['exact_duplicates']:,} ({kept})")
    if facts["renamed_pair_ids"]:
        lines.append(f'  ids that stood before      {facts["renamed_pair_ids"]:,}: they got "#2", "#3", …')
    return lines


def _split_lines(split: Mapping[str, Any], unit: Unit) -> list[str]:
    train, other, largest = split["train"], split["validation"], split["largest_group"]
    if split["group_cosine"] is None:
        rule = f"that share {split['group_jaccard']:.0%} of their text"
    else:
        rule = f"at cosine {split['group_cosine']:g}"
    lines = [
        f"  train                      {train['pairs']:,} pairs of {unit.count(train['openings'])}",
        f"  validation                 {other['pairs']:,} pairs of {unit.count(other['openings'])}, "
        f"split by {split['by']}",
        f"  near-duplicates            {unit.count(split['openings_in_groups_of_several'])} in "
        f"{split['groups_of_several_openings']:,} groups {rule}; the largest has "
        f"{unit.count(largest['openings'])}, {largest['pairs']:,} pairs",
    ]
    if split["leak"]:
        lines.append(
            f"  validation {unit.several} with a near-duplicate in training: {split['leak']['share']:.1%}; "
            f"a split by {unit.one}: {split['leak_by_opening']['all']:.1%}"
        )
    return lines


def _weight_lines(w: Mapping[str, Any], unit: Unit) -> list[str]:
    control = f", CONTROL {w['control']}" if w["control"] else ""
    m, length = (w[f"rank_correlation_{name}"] for name in ("m", "length"))
    return [
        f"  weights v                  {_made_of(w)}, multiplicity {w['multiplicity']}{control}",
        f"                             min {w['min']:.3g}, max {w['max']:.3g}, mean 1, scale {w['scale']:.3g} "
        f"(mean of w over the pairs: {w['mean_before_normalising']:.3g})",
        f"  effective sample size      {w['ess_openings_share']:.1%} of {unit.several}, "
        f"{w['ess_pairs_share']:.1%} of pairs, {w['ess_clusters_share']:.1%} by cluster",
        *_matched(w),
        f"  at the cap of {w['cap']:<12g} {w['cap_hits']:,} pairs",
        f"  heaviest 1%                {w['heaviest_1_percent_share']:.1%} of all weight",
        f"  rank correlation of v      {_signed(m)} with m, {_signed(length)} with the {unit.one}'s {w['length_unit']}",
    ]


def _kind_lines(facts: Mapping[str, Any]) -> list[str]:
    """Of weights that differ over pairs of one source, what to ask first: they mostly move weight between kinds."""
    w = facts["weights"]
    if len(facts["pays"].get(SOURCE, ())) != 1 or w["control"] or w["min"] == w["max"]:
        return []
    return ["  one source                 elsewhere weights gained between kinds of pairs: ask kat try-weights first"]


def _matched(w: Mapping[str, Any]) -> list[str]:
    """Of permuted weights, the effective sample size that they are to match."""
    if w.get("ess_to_match") is None:
        return []
    return [f"  … of what was permuted       {w['ess_to_match'] / w['pairs']:.1%} of pairs"]


def _made_of(w: Mapping[str, Any]) -> str:
    """What was blended of what, in a line."""
    power = w.get("group_temperature")
    weight = "w" if power is None else f"1 / the share of each {w['groups']} to the power {power:.2g}"
    if w["smooth"]:
        weight = f"mean {weight} of each {w['smooth']}"
    if w["within"]:
        weight = f"{weight} kept within each {w['within']}"
    return f"blend {w['blend']:g} of {weight}"


def _bin_lines(facts: Mapping[str, Any], unit: Unit) -> list[str]:
    """A table by density bin, the rarest first."""
    lines = [
        "",
        f"  {'density bin':<14}{unit.several:>9}{'pairs':>9}{'of pairs':>10}{'of weight':>11}{'mean v':>8}"
        f"{'validation':>12}{f'leak by {unit.one}':>17}",
    ]
    for one, leak in zip(facts["bins"], facts["split"]["leak_by_opening"]["by_bin"], strict=True):
        name = {0: "0 (rarest)", len(facts["bins"]) - 1: f"{one['bin']} (crowded)"}.get(one["bin"], str(one["bin"]))
        mean = "–" if one["mean_v"] is None else f"{one['mean_v']:.2f}"
        lines.append(
            f"  {name:<14}{one['openings']:>9,}{one['pairs']:>9,}{one['share_of_pairs']:>10.1%}"
            f"{one['share_of_weight']:>11.1%}{mean:>8}{one['validation_pairs']:>12,}"
            f"{'–' if leak is None else f'{leak:.1%}':>17}"
        )
    return lines


def _heaviest_lines(heaviest: list[Mapping[str, Any]], openings: Mapping[str, Heading], unit: Unit) -> list[str]:
    lines = [
        "",
        f"  the {min(SHOWN, len(heaviest))} {unit.several} whose pairs weigh most (of {len(heaviest)} in the JSON)",
    ]
    for one in heaviest[:SHOWN]:
        heading = openings.get(one["id"], Heading(""))
        text = heading_text(heading.opening, heading.later, 60)
        lines.append(f"    {one['v']:7.3f}  m {one['m']:>4}  {one['id']}  {text}")
    return lines


def _signed(number: float | None) -> str:
    return "none" if number is None else f"{number:+.2f}"
