"""A stage's outcome in words: what the command line prints and the metadata keep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kat.data.openings import OpeningStats
from kat.data.pairs import PairStats
from kat.density.selftest import Trial
from kat.density.weights import Weights
from kat.records import Embeddings
from kat.statistics import mean_pair_cosine, quantiles, spearman

HEAVIEST = 20


def prefix_stats(stats: PairStats, openings: OpeningStats) -> dict[str, Any]:
    """What `prefixes_all.stats.json` holds."""
    return {
        "shape": stats.shape,
        "pairs": openings.pairs,
        "openings": openings.openings,
        "share_removed": openings.removed,
        "openings_with_several_contexts": openings.several,
        "bad_rows": stats.bad,
        "kept": dict(sorted(stats.kept.items())),
        "rows_by_source": dict(stats.sources.most_common()),
    }


def prefix_lines(stats: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    lines = [
        f"  shape                            {stats['shape']}",
        f"  pairs                            {stats['pairs']:,}",
        f"  openings                         {stats['openings']:,}",
        f"  share removed                    {stats['share_removed']:.1%}",
        f"  openings with several contexts   {stats['openings_with_several_contexts']:,}",
    ]
    if stats["bad_rows"]:
        lines.append(f"  bad rows set aside               {stats['bad_rows']:,}")
    lines += [f"  kept: {name}   {n:,}" for name, n in stats["kept"].items()]
    sources = Counter(stats["rows_by_source"]).most_common()
    lines.append("  rows by source")
    lines += [f"    {n:>9,}  {printable(name, 80)}" for name, n in sources[:20]]
    if len(sources) > 20:
        lines.append(f"    {sum(n for _, n in sources[20:]):>9,}  in {len(sources) - 20:,} more sources")
    return lines


def weight_metadata(embeddings: Embeddings, weights: Weights, openings: Mapping[str, str] | None) -> dict[str, Any]:
    """What `embeddings_metadata.json` says; `openings` maps the heaviest ids to their text."""
    density, neighbors = weights.density, weights.density.neighbors
    values = weights.values.astype(np.float64)
    return {
        "n_items": len(embeddings),
        "embedding_dim": int(embeddings.vectors.shape[1]),
        "k": density.k,
        "k_stored": neighbors.k,
        "metric": neighbors.metric,
        "estimator": density.estimator,
        "recall": neighbors.recall,
        "intrinsic_dimension": _finite(density.intrinsic_dimension),
        "split_half_correlation": density.split_half,
        "noise_variance": density.noise,
        "temperature": weights.temperature,
        "temperature_bound": weights.bound,
        "cap": weights.cap,
        "cap_hits": weights.cap_hits,
        "effective_sample_size": weights.ess,
        "effective_sample_share": weights.ess_share,
        "heaviest_1_percent_share": weights.heaviest_share,
        "weight": {
            "min": float(values.min()),
            "max": float(values.max()),
            "mean": float(values.mean()),
            "std": float(values.std()),
            "quantiles": quantiles(values),
        },
        "mean_pair_cosine": _finite(mean_pair_cosine(embeddings.vectors)),
        "mean_pair_cosine_centred": _finite(mean_pair_cosine(embeddings.vectors, center=True)),
        "duplicate_vectors": int((neighbors.multiplicity > 1).sum()),
        "rank_correlation_weight_length": _length_correlation(embeddings, values),
        "heaviest": _heaviest(weights, openings),
        **_truncation(embeddings),
        "model": dict(embeddings.meta),
    }


def heaviest_ids(weights: Weights) -> list[str]:
    """The ids of the heaviest openings, heaviest first, ties in row order."""
    order = np.argsort(-weights.values, kind="stable")[:HEAVIEST]
    return [weights.ids[i] for i in order]


def weight_lines(meta: Mapping[str, Any]) -> list[str]:
    """The weights' summary for people."""
    weight = meta["weight"]
    lines = [
        _temperature_line(meta),
        f"  effective sample size   {meta['effective_sample_size']:,.0f} of {meta['n_items']:,} openings"
        f" ({meta['effective_sample_share']:.1%})",
        f"  weights                 min {weight['min']:.3g}, median {weight['quantiles']['50%']:.3g},"
        f" max {weight['max']:.3g}, mean {weight['mean']:.3g}",
        f"  at the cap of {meta['cap']:g}         {meta['cap_hits']:,} openings",
        f"  heaviest 1 %            {meta['heaviest_1_percent_share']:.1%} of all weight",
    ]
    if meta["mean_pair_cosine"] is not None:
        lines.append(
            f"  mean pair cosine        {meta['mean_pair_cosine']:.3f}, centred {meta['mean_pair_cosine_centred']:.3f}"
        )
    if meta["duplicate_vectors"]:
        lines.append(f"  identical vectors       {meta['duplicate_vectors']:,} openings share one")
    if (rank := meta["rank_correlation_weight_length"]) is not None:
        lines.append(f"  weight with text length {rank:+.2f} (rank correlation)")
    if meta.get("truncated"):
        lines.append(f"  texts cut               {meta['truncated']:,}, {meta['tokens_lost']:,} tokens lost")
    lines.append(f"  the {len(meta['heaviest'])} heaviest openings")
    lines += [f"    {h['weight']:7.3f}  {h['id']}  {printable(h.get('opening', ''), 70)}" for h in meta["heaviest"]]
    return lines


def _temperature_line(meta: Mapping[str, Any]) -> str:
    t, share = f"{meta['temperature']:.3g}", f"{meta['effective_sample_share']:.2f}"
    line = {
        "ess": f"  T stopped at {t} by the floor of the effective sample size",
        "noise": f"  T stopped at {t} by noise; these data support ESS {share}",
        "max_temperature": f"  T stopped at {t} by --max_temperature; ESS {share}",
        "given": f"  T is {t} as given",
        "uniform": "  all densities are equal, so all weights are 1",
    }[meta["temperature_bound"]]
    r = meta["split_half_correlation"]
    if r is None and meta["temperature_bound"] in ("ess", "max_temperature"):
        return f"{line} (noise was not measured: there are too few openings)"
    return line if r is None else f"{line} (reliability {r:.3f}, from two halves of the data)"


def explanation_lines(why: Mapping[str, Any], openings: Mapping[str, str]) -> list[str]:
    """`Weights.explain` for people."""
    lines = [
        f"{why['id']}  {printable(openings.get(why['id'], ''), 90)}",
        f"  weight              {why['weight']:.3f}, above {why['weight_percentile']:.1f} % of the openings",
        f"  density             above {why['density_percentile']:.1f} % of the openings (k = {why['k']})",
    ]
    if why["same_vector"]:
        lines.append(f"  same vector         {why['same_vector']:,} other openings")
    lines.append("  nearest others")
    lines += [f"    {d:8.4f}  {i}  {printable(openings.get(i, ''), 70)}" for i, d in why["nearest"]]
    at = ", ".join(f"{w:.3f} at k = {k}" for k, w in why["weight_at_k"].items())
    lines.append(f"  weight at other k   {at or 'not known: too few neighbours'}")
    if why["tokens"] is not None:
        cut = f", {why['tokens_lost']:,} of them not read" if why["tokens_lost"] else ", all of them read"
        lines.append(
            f"  length              {why['tokens']:,} tokens{cut}; longer than {why['length_percentile']:.1f} %"
        )
    return lines


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """The trials of `kat selftest` as a table."""
    head = f"{'data':<26}{'estimator':<16}{'measure':<18}{'found':>7}{'bound':>8}   T"
    lines = [head, "-" * (len(head) + 24)]
    for t in trials:
        bound = "–" if t.bound is None else f"≥ {t.bound:.2f}"
        verdict = "" if t.passed else "   FAILS"
        lines.append(
            f"{t.data:<26}{t.estimator:<16}{t.measure:<18}{t.found:>7.3f}{bound:>8}"
            f"   {t.temperature:.3g}, stopped by {t.stopped_by}{verdict}"
        )
    failed = sum(not t.passed for t in trials)
    lines.append("every stated bound holds" if not failed else f"{failed} stated bounds fail")
    return lines


def printable(text: str, width: int) -> str:
    """One line that no control character can disturb, cut to `width`."""
    line = " ".join(text[: 4 * width].split())
    line = "".join(c if c.isprintable() else "�" for c in line)
    return line if len(line) <= width else line[: width - 1] + "…"


def _heaviest(weights: Weights, openings: Mapping[str, str] | None) -> list[dict[str, Any]]:
    by_id = weights.mapping()
    rows: list[dict[str, Any]] = []
    for i in heaviest_ids(weights):
        row: dict[str, Any] = {"id": i, "weight": by_id[i]}
        if openings is not None:
            row["opening"] = openings[i][:200]
        rows.append(row)
    return rows


def _truncation(embeddings: Embeddings) -> dict[str, int]:
    if embeddings.lost is None:
        return {}
    return {"truncated": int((embeddings.lost > 0).sum()), "tokens_lost": int(embeddings.lost.sum(dtype=np.int64))}


def _length_correlation(embeddings: Embeddings, values: Sequence[float] | np.ndarray) -> float | None:
    return None if embeddings.tokens is None else _finite(spearman(values, embeddings.tokens))


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
