"""The weights: how they spread, who pays and who gains, what set T, which weigh most and least, and how stable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.config import DensityOptions
from kat.density.explain import percentile
from kat.density.stability import AtK, ess_curve
from kat.density.weights import noise_bound
from kat.pair_weights.facts import pay_facts
from kat.pair_weights.storage import PairWeights
from kat.records import OPENING, Unit
from kat.reports.blocks import Block, Chart, Mark, Note, Section, Series, Table, Text
from kat.reports.console.density import temperature_line
from kat.reports.console.text import printable
from kat.reports.evaluation_parts import bin_name
from kat.reports.sections.parts import clipped, columns, ends, histogram, known, points_chart, sentence

SHOWN = 20
_CURVE = 41
_COLUMNS = {"source": "source", "bin": "density bin", "cluster": "cluster", "region": "region of the map"}


@dataclass(frozen=True, eq=False)
class OpeningFacts:
    """What is known of the N openings of a run, in the order of its weights: their texts, weights `w`, `log_density`,
    and `tokens` of their texts, −1 where not known. `region` names the part of the map that each lies in, "" for none.
    `unit` is what they are called: a run may weigh contexts.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    w: np.ndarray
    log_density: np.ndarray
    tokens: np.ndarray | None = None
    region: Sequence[str] | None = None
    unit: Unit = OPENING

    def __len__(self) -> int:
        return len(self.ids)


def weights(
    meta: Mapping[str, Any],
    openings: OpeningFacts,
    options: DensityOptions,
    *,
    table: PairWeights | None,
    remedy: str,
    stability: Sequence[AtK] = (),
) -> Section:
    """Show the weights of the openings, and what they make of pairs.

    Args:
        meta: embeddings_metadata.json of the weights.
        openings: their arrays and texts.
        options: those that the weights were made with.
        table: the pair weights, None if there are none yet.
        remedy: the command that makes them.
        stability: what `kat.density.stability.at_other_ks` returns.
    """
    m = multiplicities(openings.ids, table)
    blocks: list[Block] = [_histogram(openings), *_paying(openings, table, remedy), *_ess(meta, openings, options)]
    blocks += _extremes(openings, m)
    blocks += _against(openings, m)
    return Section("weights", "Weights", [*blocks, *_stability(meta, stability, openings.unit)])


def multiplicities(ids: Sequence[str], table: PairWeights | None) -> np.ndarray | None:
    """Return m, the pairs of each opening [N] that are not left out, as its own part of the split counts them."""
    if table is None:
        return None
    kept = table.split != ""
    known_m = dict(zip(table.opening_id[kept].tolist(), table.m[kept].tolist(), strict=True))
    return np.asarray([known_m.get(one, 0) for one in ids], np.int64)


def _histogram(openings: OpeningFacts) -> Chart:
    w, unit = openings.w, openings.unit
    centres, counts = histogram(w, log=True)
    median, above = float(np.median(w)), int((np.asarray(w) > 1).sum())
    told = (
        f"Weights of {unit.count(len(w))} lie between {w.min():.3g} and {w.max():.3g}, half of them under "
        f"{median:.3g}; {above:,} weigh more than the mean of 1."
    )
    series = [Series(unit.several, centres, counts.astype(np.float64))]
    marks = [Mark("x", 1.0, "mean")]
    title = f"How many {unit.several} have which weight"
    return Chart(
        "weights",
        title,
        "bars",
        x_label="weight w",
        y_label=unit.several,
        series=series,
        told=told,
        marks=marks,
        log_x=True,
        format="count",
    )


def _paying(openings: OpeningFacts, table: PairWeights | None, remedy: str) -> list[Block]:
    """Who pays and who gains, by source, bin, cluster and region."""
    if table is None:
        told = (
            f"Who pays for the weights, and how many pairs {openings.unit.a} has, is not known: there are no pair "
            "weights yet."
        )
        return [Note(f"{told} Make them: {remedy}")]
    trains = np.flatnonzero(table.split == "train")
    labels = {"source": table.src[trains], "bin": np.asarray([bin_name(b) for b in table.bin[trains].tolist()])}
    if table.cluster is not None:
        labels["cluster"] = np.asarray([f"cluster {c}" if c >= 0 else "none" for c in table.cluster[trains].tolist()])
    if openings.region is not None and any(openings.region):
        regions = dict(zip(openings.ids, openings.region, strict=True))
        labels["region"] = np.asarray([regions.get(i, "") or "no region" for i in table.opening_id[trains].tolist()])
    blocks: list[Block] = []
    for column, parts in pay_facts(labels, table.v[trains]).items():
        if len(parts) > 1:
            blocks += _paying_column(column, parts)
    if not blocks:
        return [Text("All pairs that train are of one source and one density bin: nobody can pay for another.")]
    return blocks


def _paying_column(column: str, parts: Sequence[Mapping[str, Any]]) -> list[Block]:
    """A chart and a table of a column's values, those that lose most first."""
    name = _COLUMNS[column]
    shown, more = ends(parts)
    names = [clipped(one["value"], 60) or "(none)" for one in shown]
    rows = np.arange(len(shown), dtype=np.float64)
    series = [
        Series(title, rows, np.asarray([one[key] for one in shown]))
        for title, key in (("share of pairs", "share_of_pairs"), ("share of weight", "share_of_weight"))
    ]
    pays, gains = parts[0], parts[-1]
    told = (
        f"{printable(pays['value'], 60) or '(none)'} has {pays['share_of_pairs']:.1%} of the pairs that train and "
        f"{pays['share_of_weight']:.1%} of the weight; {printable(gains['value'], 60) or '(none)'} has "
        f"{gains['share_of_pairs']:.1%} and {gains['share_of_weight']:.1%}."
    )
    title = f"Who pays and who gains, by {name}"
    chart = Chart(
        f"pays_{column}",
        title,
        "intervals",
        x_label=name,
        y_label="share",
        series=series,
        told=told,
        categories=names,
        format="percent",
    )
    head = columns({name: "text", "pairs": "count", "of pairs": "percent", "of weight": "percent", "mean v": "number"})
    cells = [
        (
            *(clipped(one["value"]) or "(none)", one["pairs"], one["share_of_pairs"]),
            *(one["share_of_weight"], one["share_of_weight"] / one["share_of_pairs"]),
        )
        for one in shown
    ]
    return [chart, Table(f"{title}: those that pay most first", head, cells, more)]


def _ess(meta: Mapping[str, Any], openings: OpeningFacts, options: DensityOptions) -> list[Block]:
    """ESS against T, with the floor, the noise bound and the T that was chosen."""
    if meta["temperature_bound"] == "uniform":
        return [Text("All densities are equal, so all weights are 1 at any T.")]
    chosen, noise = float(meta["temperature"]), noise_bound(meta["noise_variance"])
    most = max(1.5 * chosen, 1.1 * noise if noise < options.max_temperature else 0.0, 1e-3)
    most = max(min(most, options.max_temperature), chosen)
    at = np.union1d(np.linspace(0, most, _CURVE), [chosen])
    share = ess_curve(openings.log_density, options.cap, at)
    given = meta["temperature_bound"] == "given"  # no floor applied
    marks = [Mark("x", chosen, "T given" if given else "T chosen")]
    marks += [] if given else [Mark("y", options.ess, "floor asked for")]
    told = sentence(temperature_line(meta))
    if not math.isfinite(noise):
        told += " The noise was not measured, so it sets no bound."
    elif abs(noise - chosen) < 0.01 * most:  # one line for both, whose labels would lie on each other
        marks[0] = Mark("x", chosen, f"{marks[0].label}, at the noise bound")
        told += f" Noise alone would bound T at {noise:.3g}."
    elif noise <= most:
        marks.append(Mark("x", noise, "noise bound"))
        told += f" Noise alone would bound T at {noise:.3g}."
    else:
        told += f" The noise bound, T = {noise:.3g}, lies beyond what is drawn."
    series = [Series("ESS", at, share)]
    chart = Chart(
        "ess",
        "Effective sample size against temperature",
        "lines",
        x_label="temperature T",
        y_label=f"ESS, share of {openings.unit.several}",
        series=series,
        told=told,
        marks=marks,
        format="percent",
    )
    return [chart]


def _extremes(openings: OpeningFacts, m: np.ndarray | None) -> list[Block]:
    """The heaviest openings, heaviest first, then the lightest, lightest first; ties in row order."""
    heavy = np.argsort(-openings.w, kind="stable")[:SHOWN]
    light = np.argsort(openings.w, kind="stable")[:SHOWN]
    unit = openings.unit
    head = columns(
        {
            unit.one: "text",
            "w": "number",
            f"density above, % of {unit.several}": "number",
            "pairs, m": "count",
            "id": "id",
        }
    )

    def cells(row: int) -> tuple[Any, ...]:
        own = None if m is None else int(m[row])
        text = clipped(openings.texts[row])
        return text, float(openings.w[row]), percentile(openings.log_density, row), own, openings.ids[row]

    titles = (f"The {len(heavy)} heaviest {unit.several}", f"The {len(light)} lightest {unit.several}")
    return [Table(t, head, list(map(cells, rows.tolist()))) for t, rows in zip(titles, (heavy, light), strict=True)]


def _against(openings: OpeningFacts, m: np.ndarray | None) -> list[Block]:
    """Weight against length and against multiplicity."""
    blocks: list[Block | None] = []
    if openings.tokens is not None and (np.asarray(openings.tokens) >= 0).any():
        tokens = np.where(np.asarray(openings.tokens) >= 0, openings.tokens, np.nan)
        title = "Weight against text length"
        told: dict[str, Any] = {"unit": openings.unit, "x_label": "tokens", "y_label": "weight w", "log_y": True}
        blocks.append(points_chart("weight_length", title, tokens, openings.w, **told))
    if m is not None:
        title = "Weight against multiplicity"
        of_pairs = np.where(m > 0, m, np.nan)
        of = openings.unit.one
        told = {"unit": openings.unit, "x_label": f"pairs of the {of}, m", "y_label": "weight w", "log_y": True}
        blocks.append(points_chart("weight_multiplicity", title, of_pairs, openings.w, **told))
    return [block for block in blocks if block is not None]


def _stability(meta: Mapping[str, Any], rows: Sequence[AtK], unit: Unit) -> list[Block]:
    if not rows:
        return [Text(f"Weights at other k are not known: too few neighbours were kept (k = {meta['k']}).")]
    head = columns(
        {
            "k": "count",
            "rank correlation with these weights": "number",
            "heaviest tenth in common": "percent",
            "T": "number",
            "ESS": "percent",
        }
    )
    cells = [(r.k, known(r.rank_correlation), r.same_heaviest, r.temperature, r.ess_share) for r in rows]
    least = min(rows, key=lambda r: r.same_heaviest)
    told = (
        f"With another number of neighbours than k = {meta['k']}, the heaviest tenth of the {unit.several} stays the "
        f"same to at least {least.same_heaviest:.0%} (k = {least.k})."
    )
    return [Text(told), Table("Weights made with another k", head, cells)]
