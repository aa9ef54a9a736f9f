"""The data audit: skipped and odd rows, duplicates, contradictions, what was cut, lengths, sources, leakage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kat.data.contradictions import Contradictions
from kat.pair_weights.storage import PairWeights
from kat.records import OPENING, Unit
from kat.reports.blocks import Block, Chart, Column, Note, Quotes, Section, Series, Table, Text
from kat.reports.evaluation_parts import bin_name
from kat.reports.sections.parts import QUOTE, clipped, columns, histogram, many

REASONS, SOURCES, GROUPS, UNREAD = 20, 20, 20, 20
EXAMPLES = 5
"""Skipped rows that are shown, one a reason."""
ALIKE = 2
"""Texts of a group of near-duplicates that are shown."""


def audit(
    meta: Mapping[str, Any],
    texts: Mapping[str, str],
    *,
    prefixes: Mapping[str, Any] | None,
    rejected: Sequence[Mapping[str, Any]] = (),
    lengths: np.ndarray | None = None,
    table: PairWeights | None = None,
    pair_weights: Mapping[str, Any] | None = None,
    contradictions: Contradictions | None = None,
    examples: Callable[[int], tuple[str, str, str] | None] = lambda row: None,
    remedy: str = "",
    unit: Unit = OPENING,
) -> Section:
    """Show what was wrong or odd with the data.

    Args:
        meta: embeddings_metadata.json of the weights.
        texts: the openings by id.
        prefixes: prefixes_all.stats.json, if the run has prefixes.
        rejected: rows of the file of bad rows: file, line, reason, raw.
        lengths: lengths.npy, [N, 2]: tokens of each text, tokens lost; −1 where not known.
        table: the pair weights, None if there are none yet; `pair_weights` is their stats.json.
        contradictions: what `kat.data.contradictions` found, None if the pairs were not read.
        examples: opening, chosen and rejected of a row of the pairs, None where it is not known.
        remedy: the command that makes pair weights.
        unit: what was weighed.
    """
    blocks = [*_rows(prefixes, rejected), *_duplicates(table, pair_weights, texts, remedy=remedy, unit=unit)]
    blocks += _contradictions(contradictions, examples)
    blocks += [*_truncation(meta, lengths, unit), *_completions(table)]
    return Section("audit", "Data audit", [*blocks, *_sources(prefixes), *_leakage(pair_weights, remedy, unit)])


def _rows(prefixes: Mapping[str, Any] | None, rejected: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Rows read, skipped by reason, and kept although odd."""
    if prefixes is None:
        return [Note("Which rows were read is not known: these weights were made without pairs of their own.")]
    dropped, kept = prefixes.get("dropped", {}), prefixes["kept"]
    read = prefixes["pairs"] + prefixes["bad_rows"] + sum(dropped.values())
    blocks: list[Block] = [
        Text(f"{many(read, 'row')} read: {prefixes['pairs']:,} are pairs, {read - prefixes['pairs']:,} were skipped.")
    ]
    reasons = Counter(str(one["reason"]) for one in rejected)
    skipped = [(reason, n) for reason, n in reasons.most_common()] + list(dropped.items())
    if skipped:
        blocks.append(_counts("Rows skipped, by reason", "reason", skipped, REASONS))
    if (unknown := prefixes["bad_rows"] - len(rejected)) > 0:
        reason = "the file of bad rows is not there" if not rejected else f"the first {len(rejected):,} are counted"
        blocks.append(Note(f"Of {many(unknown, 'bad row')} the reason is not told: {reason}."))
    if rejected:
        first = {str(one["reason"]): one for one in reversed(rejected)}
        shown = [first[reason] for reason, _ in reasons.most_common(EXAMPLES)]
        quotes = [
            (f"{one['file']}:{one['line']}: {one['reason']}", clipped(str(one.get("raw", "(not kept)")), QUOTE))
            for one in shown
        ]
        blocks.append(Quotes("Skipped rows, the first of each reason", quotes))
    if kept:
        blocks.append(_counts("Kept, but odd", "what", list(kept.items()), REASONS))
    if unread := prefixes.get("columns_not_read"):
        blocks.append(_counts("Columns not read", "column", sorted(unread.items(), key=lambda i: -i[1]), UNREAD))
    return blocks


def _counts(title: str, heading: str, counts: Sequence[tuple[str, int]], most: int) -> Table:
    rows = [(clipped(name), n) for name, n in counts[:most]]
    return Table(title, (Column(heading), Column("rows", "count")), rows, max(len(counts) - most, 0))


def _duplicates(
    table: PairWeights | None,
    pair_weights: Mapping[str, Any] | None,
    texts: Mapping[str, str],
    *,
    remedy: str,
    unit: Unit,
) -> list[Block]:
    if table is None or pair_weights is None:
        return [Note(f"Near-duplicates are not known: there are no pair weights yet. Make them: {remedy}")]
    exact, split = pair_weights["exact_duplicates"], pair_weights["split"]
    kept = "left out" if pair_weights["left_out"] else "kept; --duplicates drop leaves them out"
    told = f"Exact duplicates: {exact:,}" + (f" ({kept})." if exact else ".")
    if split["group_cosine"] is None:
        rule = f"that share {split['group_jaccard']:.0%} of their text"
    else:
        rule = f"at cosine {split['group_cosine']:g}"
    near = (
        f"Near-duplicates: {unit.count(split['openings_in_groups_of_several'])} in "
        f"{split['groups_of_several_openings']:,} groups {rule}."
    )
    groups, more = near_duplicate_groups(table, texts)
    head = columns({unit.several: "count", "pairs": "count", "of pairs": "percent", "examples": "text"})
    return [
        Text(told),
        Text(near),
        *([Table("Near-duplicates, largest group first", head, groups, more)] if groups else []),
    ]


def near_duplicate_groups(
    table: PairWeights, texts: Mapping[str, str]
) -> tuple[list[tuple[int, int, float, str]], int]:
    """Return the largest groups of several openings, by openings and then pairs: both counts, the share of all pairs,
    and the first texts; with how many more groups there are."""
    kept = np.flatnonzero(table.split != "")
    ids, first, opening = np.unique(table.opening_id[kept].astype(str), return_index=True, return_inverse=True)
    group = table.group[kept][first]
    pairs = np.bincount(opening, minlength=len(ids))
    numbers, place, openings = np.unique(group, return_inverse=True, return_counts=True)
    of_pairs = np.bincount(place, pairs).astype(np.int64)
    several = np.flatnonzero(openings > 1)
    order = several[np.lexsort((numbers[several], -of_pairs[several], -openings[several]))]
    rows = []
    for number in order[:GROUPS].tolist():
        own = np.flatnonzero(place == number)
        own = own[np.argsort(first[own], kind="stable")][:ALIKE]
        examples = " ⁄ ".join(clipped(texts.get(ids[i], ids[i]), 150) for i in own.tolist())
        rows.append((int(openings[number]), int(of_pairs[number]), float(of_pairs[number] / len(kept)), examples))
    return rows, max(len(order) - GROUPS, 0)


def _contradictions(
    contradictions: Contradictions | None, examples: Callable[[int], tuple[str, str, str] | None]
) -> list[Block]:
    if contradictions is None:
        return [Note("Contradictory preferences are not known: the pairs of this run could not be read again.")]
    one = contradictions
    blocks: list[Block] = [
        Text(
            f"Contradictory preferences: {many(one.reversed_pairs, 'pair')} of {one.pairs:,} "
            f"{'is' if one.reversed_pairs == 1 else 'are'} reversed by another pair of the same context."
        ),
        Text(
            f"{many(one.mixed, 'completion')} in {many(one.mixed_pairs, 'pair')} "
            f"{'is' if one.mixed == 1 else 'are'} chosen in one pair and rejected in another of the same context; a "
            "ranking of three completions does that too."
        ),
    ]
    if one.identical:
        blocks.append(Note(f"{many(one.identical, 'pair')} of two identical completions: nothing is preferred."))
    quotes = [_quoted(rows, examples) for rows in one.reversed_examples]
    if quotes:
        blocks.append(Quotes("Preferred both ways", quotes))
    if one.mixed_examples:
        head = (Column("chosen in row", "id"), Column("rejected in row", "id"))
        title = "Completions that are chosen and rejected, the first"
        blocks.append(Table(title, head, one.mixed_examples, max(one.mixed - len(one.mixed_examples), 0)))
    return blocks


def _quoted(rows: tuple[int, int], examples: Callable[[int], tuple[str, str, str] | None]) -> tuple[str, str]:
    heading = f"rows {rows[0]:,} and {rows[1]:,}"
    texts = examples(rows[0])
    if texts is None:
        return heading, "(not read)"
    names = ("first user message", f"chosen in row {rows[0]:,}", f"chosen in row {rows[1]:,}")
    return heading, "\n\n".join(f"{name}: {clipped(text, 600)}" for name, text in zip(names, texts, strict=True))


def _truncation(meta: Mapping[str, Any], lengths: np.ndarray | None, unit: Unit) -> list[Block]:
    """Texts cut, tokens lost, the longest, and how long texts are."""
    tokens = np.zeros(0) if lengths is None else np.asarray(lengths)[:, 0]
    known = tokens[tokens >= 0]
    if not len(known):
        return [Note("How long texts are is not known: these vectors were not made by kat.")]
    lost = np.asarray(lengths)[:, 1]
    cut, total = int((lost > 0).sum()), int(lost[lost > 0].sum(dtype=np.int64))
    longest = int(np.argmax(tokens))
    limit = meta.get("model", {}).get("max_tokens")
    told = f"Texts cut: {cut:,}, {total:,} tokens lost" + (f" (the model reads {limit:,} tokens)." if limit else ".")
    longest_text = (
        f"The longest text has {many(int(tokens[longest]), 'token')}, {int(lost[longest]):,} of them not read."
    )
    centres, counts = histogram(known, log=True)
    seen = f"Half of the {many(len(known), 'text')} have {np.median(known):,.0f} tokens or fewer."
    if empty := int((known == 0).sum()):
        seen += f" {many(empty, 'text')} without a token cannot be drawn."
    series = [Series(unit.several, centres, counts.astype(np.float64))]
    chart = Chart(
        "lengths",
        "Length of the texts",
        "bars",
        x_label="tokens",
        y_label=unit.several,
        series=series,
        told=seen,
        log_x=True,
        format="count",
    )
    return [Text(told), Text(longest_text), chart]


def _completions(table: PairWeights | None) -> list[Block]:
    """Whether the longer completion is the chosen one."""
    if table is None or not len(table):
        return []
    chosen, rejected = table.chosen_chars, table.rejected_chars
    longer = float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())
    return [
        Text(
            f"The chosen completion is the longer one in {longer:.1%} of the pairs (ties ½); chosen ones have "
            f"{np.median(chosen):,.0f} characters, rejected ones {np.median(rejected):,.0f} (medians)."
        )
    ]


def _sources(prefixes: Mapping[str, Any] | None) -> list[Block]:
    if prefixes is None:
        return []
    sources = sorted(prefixes["rows_by_source"].items(), key=lambda one: -one[1])
    total = max(sum(n for _, n in sources), 1)
    head = (Column("source"), Column("rows", "count"), Column("of rows", "percent"))
    rows = [(clipped(name), n, n / total) for name, n in sources[:SOURCES]]
    return [Table("Rows by source", head, rows, max(len(sources) - SOURCES, 0))]


def _leakage(facts: Mapping[str, Any] | None, remedy: str, unit: Unit) -> list[Block]:
    """What validates and has a near-duplicate in training, by density bin."""
    if facts is None:
        return [Note(f"There is no split yet, so leakage is not known. Make it: {remedy}")]
    split = facts["split"]
    if not split["leak"]:
        return [Note(f"No {unit.one} validates, so nothing can leak.")]
    told = (
        f"Validation {unit.several} with a near-duplicate in training: {split['leak']['share']:.1%}; "
        f"a split by {unit.one}: {split['leak_by_opening']['all']:.1%}."
    )
    last = len(facts["bins"]) - 1
    rows = [
        (bin_name(one["bin"], last), one["validation_openings"], one["validation_pairs"], leak)
        for one, leak in zip(facts["bins"], split["leak_by_opening"]["by_bin"], strict=True)
    ]
    head = columns(
        {
            "density bin": "text",
            f"validation {unit.several}": "count",
            "validation pairs": "count",
            f"leak by {unit.one}": "percent",
        }
    )
    return [Text(told), Table(f"Leakage of a split by {unit.one}, by density bin", head, rows)]
