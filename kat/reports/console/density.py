"""What `kat density` did, and why an opening weighs what it weighs, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kat.data.headings import Heading
from kat.records import OPENING, Unit
from kat.reports.console.text import heading_text


def neighbor_summary(k: int, texts: int, recall: float) -> str:
    """Say in one line what was searched, and how well."""
    quality = "exact" if recall == 1 else f"recall {recall:.4f}"
    return f"{k} of each of {texts:,} texts, {quality}"


def weight_summary(weights: int, k: int) -> str:
    """Say in one line what was made of what."""
    return f"{weights:,} weights from {k} neighbours"


def left_out_text(left_out: Mapping[str, str]) -> str:
    """Say how many vectors have no density, and name the first."""
    return f"left out {len(left_out):,} vectors, named in the manifest: {', '.join([*left_out][:5])}"


def weight_lines(meta: Mapping[str, Any], unit: Unit = OPENING) -> list[str]:
    """The weights' summary for people."""
    weight = meta["weight"]
    lines = [
        f"  {temperature_line(meta)}",
        f"  effective sample size   {meta['effective_sample_size']:,.0f} of {unit.count(meta['n_items'])}"
        f" ({meta['effective_sample_share']:.1%})",
        f"  weights                 min {weight['min']:.3g}, median {weight['quantiles']['50%']:.3g},"
        f" max {weight['max']:.3g}, mean {weight['mean']:.3g}",
        f"  at the cap of {meta['cap']:g}         {unit.count(meta['cap_hits'])}",
        f"  heaviest 1%             {meta['heaviest_1_percent_share']:.1%} of all weight",
    ]
    if meta["mean_pair_cosine"] is not None:
        lines.append(
            f"  mean pair cosine        {meta['mean_pair_cosine']:.3f}, centred {meta['mean_pair_cosine_centred']:.3f}"
        )
    if meta["duplicate_vectors"]:
        lines.append(f"  identical vectors       {meta['duplicate_vectors']:,} {unit.several} share one")
    if (rank := meta["rank_correlation_weight_length"]) is not None:
        lines.append(f"  weight with text length {rank:+.2f} (rank correlation)")
    if meta.get("truncated"):
        lines.append(f"  texts cut               {meta['truncated']:,}, {meta['tokens_lost']:,} tokens lost")
    lines.append(f"  the {len(meta['heaviest'])} heaviest {unit.several}")
    lines += [
        f"    {h['weight']:7.3f}  {h['id']}  {heading_text(h.get('opening', ''), h.get('later', ''), 70)}"
        for h in meta["heaviest"]
    ]
    return lines


def temperature_line(meta: Mapping[str, Any]) -> str:
    """Say what T is, and what stopped it."""
    t, share = f"{meta['temperature']:.3g}", f"{meta['effective_sample_share']:.2f}"
    line = {
        "ess": f"T stopped at {t} by the floor of the effective sample size",
        "noise": f"T stopped at {t} by noise; these data support ESS {share}",
        "max_temperature": f"T stopped at {t} by --max_temperature, before the floor was reached; ESS {share}",
        "given": f"T is {t} as given",
        "uniform": "all densities are equal, so all weights are 1",
    }[meta["temperature_bound"]]
    r = meta["split_half_correlation"]
    if r is None and meta["temperature_bound"] in ("ess", "max_temperature"):
        return f"{line} (noise was not measured: there are too few texts)"
    return line if r is None else f"{line} (reliability {r:.3f}, from two halves of the data)"


def explanation_lines(why: Mapping[str, Any], openings: Mapping[str, Heading], unit: Unit = OPENING) -> list[str]:
    """`Weights.explain` for people."""

    def shown(opening: str, width: int) -> str:
        heading = openings.get(opening, Heading(""))
        return heading_text(heading.opening, heading.later, width)

    lines = [
        f"{why['id']}  {shown(why['id'], 90)}",
        f"  weight              {why['weight']:.3f}, above {why['weight_percentile']:.1f}% of the {unit.several}",
        f"  density             above {why['density_percentile']:.1f}% of the {unit.several} (k = {why['k']})",
    ]
    if why["same_vector"]:
        lines.append(f"  same vector         {why['same_vector']:,} other {unit.several}")
    lines.append("  nearest others")
    lines += nearest_lines(why["nearest"], shown)
    at = ", ".join(f"{w:.3f} at k = {k}" for k, w in why["weight_at_k"].items())
    lines.append(f"  weight at other k   {at or 'not known: too few neighbours'}")
    if why["tokens"] is not None:
        cut = f", {why['tokens_lost']:,} of them not read" if why["tokens_lost"] else ", all of them read"
        lines.append(
            f"  length              {why['tokens']:,} tokens{cut}; longer than {why['length_percentile']:.1f}%"
        )
    return lines


def nearest_lines(nearest: Iterable[tuple[str, float]], shown: Callable[[str, int], str], width: int = 70) -> list[str]:
    """Return a line for each of some neighbours, (id, distance): `shown` gives the text of an id, cut to a width."""
    return [f"    {distance:8.4f}  {name}  {shown(name, width)}" for name, distance in nearest]
