"""The summary: what came in, what was left out, how crowded it is, what the weights are and do, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kat.records import CONTEXT, OPENING, Unit
from kat.reports.blocks import Block, Note, Section, Table, Text
from kat.reports.console.density import temperature_line
from kat.reports.console.text import printable
from kat.reports.evaluation_parts import bin_name
from kat.reports.sections.parts import facts_table, many, sentence

NEAR = 0.9
"""A cosine from which the nearest other is said to be near."""
_NAMED = {"src": "source"}
SPREAD = 0.05
"""How far a share of the weight may be from that of the pairs before somebody is said to pay."""


def summary(
    meta: Mapping[str, Any],
    *,
    prefixes: Mapping[str, Any] | None,
    pair_weights: Mapping[str, Any] | None,
    log_density: np.ndarray,
    nearest: np.ndarray | None = None,
    vectors_left_out: int = 0,
    commands: Sequence[Block] = (),
    unit: Unit = OPENING,
) -> Section:
    """Say in five sentences and a table what a run is, then what to do next.

    Args:
        meta: embeddings_metadata.json of the weights.
        prefixes: prefixes_all.stats.json, if the run has prefixes.
        pair_weights: pair_weights.stats.json, if there are pair weights.
        log_density: of the openings, [N].
        nearest: the distance of each opening's nearest other, [N], between the vectors themselves, not centred.
        vectors_left_out: vectors that cannot be weighed, such as zeros.
        commands: what `kat.reports.sections.next_steps` returns.
        unit: what was weighed.
    """
    cosines = nearest_cosines(meta, nearest)
    half = half_share(log_density)
    sentences = [
        came_in(meta, prefixes, unit),
        left_out(prefixes, pair_weights, vectors_left_out),
        crowded(meta, half, cosines, unit),
        temperature(meta, unit),
        weights_do(meta, pair_weights, unit),
    ]
    warnings = [] if pair_weights is None else [Note(sentence(one)) for one in pair_weights["warnings"]]
    tables = _tables(meta, prefixes, pair_weights, half=half, cosines=cosines, unit=unit)
    return Section("summary", "Summary", [*map(Text, sentences), *warnings, *tables, *commands])


def half_share(log_density: np.ndarray) -> float:
    """Return the smallest share of the openings that has half of all density, the most crowded first."""
    density = np.sort(np.exp(log_density - np.max(log_density)))[::-1]
    total = np.cumsum(density)
    return float((np.searchsorted(total, total[-1] / 2 * (1 - 1e-12)) + 1) / len(density))


def nearest_cosines(meta: Mapping[str, Any], nearest: np.ndarray | None) -> np.ndarray | None:
    """Return the cosine of each opening with its nearest other, from their distance; None where it is not known."""
    if nearest is None or not len(nearest) or meta["metric"] != "cosine":
        return None
    return np.asarray(1 - np.square(np.asarray(nearest, np.float64)) / 2)


def came_in(meta: Mapping[str, Any], prefixes: Mapping[str, Any] | None, unit: Unit = OPENING) -> str:
    """Say what was read."""
    if prefixes is None:
        return f"{many(meta['n_items'], 'text')} came in as embeddings; which pairs they are of is not known here."
    sources = prefixes["rows_by_source"]
    if len(sources) == 1:
        origin = f"of one source, {printable(next(iter(sources)), 80)}"
    else:
        origin = f"of {many(len(sources), 'source')}"
    several = prefixes["openings_with_several_contexts"]
    has = f"{unit.count(several)} {'has' if several == 1 else 'have'} several contexts"
    shape = "; ".join([prefixes["shape"], *prefixes.get("inside_text", ())])
    return (
        f"{many(prefixes['pairs'], 'pair')} of {unit.count(prefixes['openings'])} came in, {origin}, in the "
        f"format {shape}{'' if unit is CONTEXT else f'; {has}'}."
    )


def left_out(prefixes: Mapping[str, Any] | None, pair_weights: Mapping[str, Any] | None, vectors: int = 0) -> str:
    """Say what was left out, and why."""
    parts = [f"{many(vectors, 'vector')} left out that could not be weighed"] if vectors else []
    if prefixes is not None:
        if prefixes["bad_rows"]:
            parts.append(f"{many(prefixes['bad_rows'], 'bad row')} set aside")
        parts += [f"{n:,} dropped: {printable(name, 80)}" for name, n in prefixes.get("dropped", {}).items()]
    if pair_weights is not None:
        parts += [f"{n:,} left out: {reason}" for reason, n in pair_weights["left_out"].items()]
    nothing = "Nothing was left out." if prefixes is not None else "Of the pairs, what was left out is not known here."
    told = f"Of what was read, {'; '.join(parts)}." if parts else nothing
    if pair_weights is not None and pair_weights["exact_duplicates"] and not pair_weights["left_out"]:
        count = many(pair_weights["exact_duplicates"], "exact duplicate")
        told += f" {count} kept; --duplicates drop leaves them out."
    return told


def crowded(meta: Mapping[str, Any], half: float, cosines: np.ndarray | None, unit: Unit = OPENING) -> str:
    """Say how crowded what was weighed is."""
    count = meta["n_items"]
    parts = [f"the most crowded {half:.1%} of the {unit.several} have half of all density"]
    if cosines is not None:
        parts.append(f"{np.mean(cosines >= NEAR):.1%} have their nearest other at cosine {NEAR:g} or above")
    shared = meta["duplicate_vectors"]
    parts.append(f"{shared:,} ({shared / count:.1%}) share their vector with another")
    if meta["mean_pair_cosine"] is not None:
        parts.append(f"the mean pair cosine is {meta['mean_pair_cosine']:.3f}")
    return sentence("; ".join(parts))


def temperature(meta: Mapping[str, Any], unit: Unit = OPENING) -> str:
    """Say what T and ESS are, and what stopped T."""
    return (
        f"{sentence(temperature_line(meta))[:-1]}; the effective sample size is {meta['effective_sample_size']:,.0f} "
        f"of {unit.count(meta['n_items'])} ({meta['effective_sample_share']:.1%})."
    )


def weights_do(meta: Mapping[str, Any], pair_weights: Mapping[str, Any] | None, unit: Unit = OPENING) -> str:
    """Say what the weights do: how much the heaviest carry, and who pays."""
    if pair_weights is None:
        share = meta["heaviest_1_percent_share"]
        return f"The heaviest 1% of the {unit.several} carry {share:.1%} of all weight."
    share = pair_weights["weights"]["heaviest_1_percent_share"]
    return f"The heaviest 1% of the pairs that train carry {share:.1%} of all weight; {_who_pays(pair_weights)}."


def _who_pays(facts: Mapping[str, Any]) -> str:
    """The value of a column that loses most and the one that gains most; by density bin where no column tells."""
    last = len(facts["bins"]) - 1
    bins = [one | {"value": bin_name(one["bin"], last)} for one in facts["bins"] if one["pairs"]]
    for column, parts in (*facts["pays"].items(), ("density bin", bins)):
        changed = [one for one in parts if abs(one["share_of_weight"] / one["share_of_pairs"] - 1) > SPREAD]
        if len(parts) > 1 and changed:
            # In absolute shares: a source of three pairs that loses half is not who pays.
            moved = sorted(parts, key=lambda one: one["share_of_weight"] - one["share_of_pairs"])
            pays, gains = (
                f"{printable(one['value'], 60) or '(none)'} ({one['share_of_pairs']:.1%} of the pairs, "
                f"{one['share_of_weight']:.1%} of the weight)"
                for one in (moved[0], moved[-1])
            )
            return f"by {_NAMED.get(column, column)}, {pays} pays and {gains} gains most"
    return "nobody pays: shares of pairs and of weight are alike"


def _tables(
    meta: Mapping[str, Any],
    prefixes: Mapping[str, Any] | None,
    pair_weights: Mapping[str, Any] | None,
    *,
    half: float,
    cosines: np.ndarray | None,
    unit: Unit,
) -> list[Table]:
    """The main figures: a table for each way that they are shown."""
    read, w = prefixes or {}, (pair_weights or {}).get("weights", {})
    split = (pair_weights or {}).get("split", {})
    counts = {
        "pairs": read.get("pairs"),
        unit.several: meta["n_items"],
        "bad rows set aside": read.get("bad_rows"),
        "pairs that train": split.get("train", {}).get("pairs"),
        "pairs that validate": split.get("validation", {}).get("pairs"),
        f"{unit.several} that share a vector": meta["duplicate_vectors"],
        "texts cut": meta.get("truncated"),
        f"{unit.several} at the cap": meta["cap_hits"],
        "neighbours, k": meta["k"],
    }
    near = None if cosines is None else float((cosines >= NEAR).mean())
    shares = {
        f"effective sample size, of {unit.several}": meta["effective_sample_share"],
        "effective sample size, of pairs that train": w.get("ess_pairs_share"),
        "effective sample size, by cluster": w.get("ess_clusters_share"),
        f"weight of the heaviest 1% of {unit.several}": meta["heaviest_1_percent_share"],
        f"{unit.several} that have half of all density": half,
        f"{unit.several} with another at cosine {NEAR:g} or above": near,
    }
    numbers = {
        "temperature, T": meta["temperature"],
        f"effective sample size of {unit.several}": meta["effective_sample_size"],
        "reliability of the density": meta["split_half_correlation"],
        "mean pair cosine": meta["mean_pair_cosine"],
        "mean pair cosine, centred": meta["mean_pair_cosine_centred"],
        "intrinsic dimension": meta["intrinsic_dimension"],
        "smallest weight": meta["weight"]["min"],
        "median weight": meta["weight"]["quantiles"]["50%"],
        "largest weight": meta["weight"]["max"],
        "recall of the search for neighbours": meta["recall"],
    }
    return [
        facts_table("Main figures: counts", "count", counts, "count"),
        facts_table("Main figures: shares", "percent", shares, "share"),
        facts_table("Main figures: numbers", "number", numbers),
    ]
