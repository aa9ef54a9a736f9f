"""What a table of pair weights comes to, and what about its split should give pause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kat.data.texts import CodedTexts
from kat.evaluation.power import detectable
from kat.pair_config import PairOptions
from kat.pair_weights.duplicates import JACCARD, LETTERS
from kat.pair_weights.storage import PairWeights
from kat.statistics import BINS, effective_sample_size

HEAVIEST = 50
LARGE_SHARE, LARGE = 0.05, 20
"""A group of more than this share of the openings, and at least so many, is one that someone should look at."""
LEAST_VALIDATION_PAIRS = 20
"""A density bin needs so many pairs to validate; even then only differences of some 30 points of accuracy show."""
NAMED = 1_000
"""Values of a column that the report holds."""
HALF, LEAST_SHARE = 0.5, 0.01
"""A part of at least this share of the pairs, with less than half of that share of the weight, pays for the others."""
CLOSE = 0.02
"""How far the effective sample size of permuted weights may be from what it is to match, before it is said."""
MOST_VALIDATION_SHARE = 0.5
"""A larger share than this is no remedy: too little would be left to train."""


def bin_facts(table: PairWeights) -> list[dict[str, Any]]:
    """What each density bin has of the training part, and what the weights make of it."""
    bins, split, opening = [], table.text("split").coded(), table.text("opening_id").coded().codes
    all_train, all_validate = split.equals("train"), split.equals("validation")
    for b in range(BINS):
        trains, validates = (table.bin == b) & all_train, (table.bin == b) & all_validate
        v = table.v[trains]
        bins.append(
            {
                "bin": b,
                "openings": int((np.bincount(opening[trains]) > 0).sum()),
                "pairs": int(trains.sum()),
                "validation_pairs": int(validates.sum()),
                "validation_openings": int((np.bincount(opening[validates]) > 0).sum()),
                "share_of_pairs": float(trains.sum() / all_train.sum()),
                "share_of_weight": float(v.sum() / np.nansum(table.v)),
                "mean_v": mean(v),
                "ess_share": effective_sample_size(v) / len(v) if len(v) else None,
            }
        )
    return bins


def pay_facts(labels: Mapping[str, np.ndarray | CodedTexts], v: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """What each value of some columns [P] of the training pairs has of the pairs and of their weights v [P].

    By column, the values that lose most first; NAMED of them at most, of which there are more the smallest left out.
    """
    pays = {}
    for column, values in labels.items():
        names, place = _distinct(values)
        pairs, weight = np.bincount(place), np.bincount(place, v)
        kept = np.argsort(-pairs, kind="stable")[:NAMED]
        kept = kept[np.argsort((weight / pairs)[kept], kind="stable")]
        pays[column] = [
            {
                "value": names[i],
                "pairs": int(pairs[i]),
                "share_of_pairs": float(pairs[i] / len(v)),
                "share_of_weight": float(weight[i] / weight.sum()),
            }
            for i in kept.tolist()
        ]
    return pays


def who_pays(bins: np.ndarray, src: np.ndarray, v: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Return what density bins and sources [P] of the training pairs have of the pairs and of their weights v [P].

    Empty where all weights are the same: nobody pays.
    """
    if not len(v) or np.ptp(v) <= 1e-6 * np.abs(v).max():
        return {}
    titles = np.where(bins < 0, "no density", np.char.add("bin ", bins.astype(str)))
    return pay_facts({"bin": titles, "src": src}, v)


def paying_parts(parts: Sequence[Mapping[str, Any]], least: float = 0.0) -> list[Mapping[str, Any]]:
    """Return those parts of the pairs that have less than half of their share of the weight, and at least a share
    `least` of the pairs, in their order."""
    return [
        one for one in parts if one["share_of_pairs"] >= least and one["share_of_weight"] < HALF * one["share_of_pairs"]
    ]


def weight_warnings(facts: Mapping[str, Any]) -> list[str]:
    """Return what about the weights should give pause: who pays for them, and a control that does not match."""
    warnings = []
    bins = [one | {"value": f"bin {one['bin']}"} for one in facts["bins"] if one["pairs"]]
    for column, parts in (*facts["pays"].items(), ("density bin", bins)):
        paying = [
            f"{one['value']} ({one['share_of_pairs']:.1%} of the pairs, {one['share_of_weight']:.1%} of the weight)"
            for one in paying_parts(parts, LEAST_SHARE)
        ]
        if paying:
            more = f" and {len(paying) - 3:,} more" if len(paying) > 3 else ""
            remedy = "a smaller --blend" if column == "density bin" else f"a smaller --blend, or --within {column}"
            warnings.append(
                f"less than half its share of the weight has, by {column}, {', '.join(paying[:3])}{more}. Safety "
                f"prompts are often crowded. What that costs: kat try-weights. To weigh them more: {remedy}."
            )
    w = facts["weights"]
    target_ess = w.get("ess_to_match")
    if target_ess is not None and abs(w["ess_pairs"] / target_ess - 1) > CLOSE:
        warnings.append(
            f"the permuted weights have an effective sample size of {w['ess_pairs']:,.0f} pairs, and those that they "
            f"are to match {target_ess:,.0f}: part of a difference between the two is the sample size."
        )
    return warnings


def _distinct(values: np.ndarray | CodedTexts) -> tuple[Sequence[str], np.ndarray]:
    """The distinct texts of a column [P] in order, and the number [P] of each pair's among them."""
    if isinstance(values, CodedTexts):
        return values.distinct()
    names, place = np.unique(values.astype(str), return_inverse=True)
    return names.tolist(), place


def heaviest(table: PairWeights) -> list[dict[str, Any]]:
    """The openings whose pairs weigh most, each once, heaviest first."""
    rows = np.flatnonzero(table.text("split").coded().equals("train"))
    rows = rows[np.argsort(-table.v[rows], kind="stable")]
    ids, src = table.text("opening_id").coded(), table.text("src")
    first = np.unique(ids.codes[rows], return_index=True)[1]
    return [
        {
            "id": ids[row],
            "v": float(table.v[row]),
            "w": float(table.w[row]),
            "m": int(table.m[row]),
            "row": int(table.row[row]),
            "src": src[row],
        }
        for row in rows[np.sort(first)[:HEAVIEST]].tolist()
    ]


def mean(values: np.ndarray) -> float | None:
    """Return the mean of some values, None of none."""
    return float(values.mean()) if len(values) else None


def split_warnings(facts: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a split, in words, with what to do; `facts` are those of `kat.pair_weights.table`."""
    return [*_large_group(facts["split"]), *_thin_bins(facts)]


def _large_group(split: Mapping[str, Any]) -> list[str]:
    """A group that chains or a loose threshold made, or a crowd of near-copies that the weights should know of."""
    largest, openings = split["largest_group"]["openings"], split["openings"]
    if largest < LARGE or largest <= LARGE_SHARE * openings:
        return []
    warning = f"one group of near-duplicates holds {largest:,} of {openings:,} texts ({largest / openings:.0%})"
    if split["group_cosine"] is None:
        return [
            f"{warning}: they share most of their text, a template perhaps. It stays in training if it is more than a "
            "tenth of the validation part. Read some of it (column group); deduplicate the source if they are copies, "
            "or give --split opening if they are not."
        ]
    return [
        f"{warning}: cosine {split['group_cosine']:g} is low for this encoder. Leave --group_cosine out to group by "
        "what texts share, or give a larger one."
    ]


def _thin_bins(facts: Mapping[str, Any]) -> list[str]:
    """Density bins of which a validation set says next to nothing."""
    split = facts["split"]
    pairs = {b["bin"]: b["validation_pairs"] for b in facts["bins"] if b["pairs"] or b["validation_pairs"]}
    thin = [b for b, n in pairs.items() if n < LEAST_VALIDATION_PAIRS]
    if split["by"] == "none" or not split["validation_share_asked"] or not thin:
        return []
    fewest = min(pairs.values())
    listed = ", ".join(f"bin {b}: {pairs[b]:,}" for b in thin)
    seen = ""
    if fewest:
        seen = f"; of {fewest:,} a difference in accuracy is seen from {_detectable_points(fewest):.0f} points up"
    # What the thinnest bin needs, were its part of the validation pairs to stay as it is.
    share = split["validation_share_asked"] * LEAST_VALIDATION_PAIRS / max(fewest, 0.5)
    share = math.ceil(share * 100) / 100
    remedy = f"Give --validation_share {share:g}" if share <= MOST_VALIDATION_SHARE else "Take more pairs"
    return [
        f"too few validation pairs to compare density bins ({listed}; {LEAST_VALIDATION_PAIRS} is the least{seen}). "
        f"{remedy}, or evaluate on pairs of their own."
    ]


def _detectable_points(pairs: int) -> float:
    """The smallest difference of an accuracy about ½ from a known one that so many single pairs show, in points."""
    return min(100 * detectable(0.5 / math.sqrt(pairs)), 100.0)


def split_facts(pairs: np.ndarray, group: np.ndarray, validates: np.ndarray, options: PairOptions) -> dict[str, Any]:
    """Return how openings are split that have `pairs` [X] kept ones, are of a `group` [X] each and validate or not."""
    paired = pairs > 0
    names, place, sizes = np.unique(group[paired], return_inverse=True, return_counts=True)
    of_group = np.bincount(place, pairs[paired])
    largest = int(np.lexsort((of_group, sizes))[-1])
    parts = {
        name: {"pairs": int(pairs[side].sum()), "openings": int((paired & side).sum())}
        for name, side in (("train", ~validates), ("validation", validates))
    }
    return parts | {
        "by": options.split,
        "seed": options.seed,
        "validation_share_asked": options.validation_share,
        "group_cosine": options.group_cosine,
        "group_jaccard": JACCARD if options.group_cosine is None else None,
        "shingle_letters": LETTERS if options.group_cosine is None else None,
        "openings": int(paired.sum()),
        "groups": len(names),
        "groups_of_several_openings": int((sizes > 1).sum()),
        "openings_in_groups_of_several": int(sizes[sizes > 1].sum()),
        "largest_group": {"openings": int(sizes[largest]), "pairs": int(of_group[largest])},
    }
