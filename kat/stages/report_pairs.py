"""What the prefixes and the pairs of a run tell a report: texts, sources, topics, and what contradicts what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kat.data.contradictions import ContradictionFinder, Contradictions
from kat.data.headings import headings
from kat.data.openings import opening_id
from kat.data.pairs import PairReader
from kat.errors import InputError
from kat.records import Prefix
from kat.stages.stage import with_progress

LETTERS = 4_000
"""Of a text that are held: a map shows 300, and names its regions from these."""
SEVERAL = "(several)"


@dataclass(frozen=True)
class PairFacts:
    """What the pairs themselves tell: contradictions, and the source and the topic of each
    opening, SEVERAL where its pairs differ.

    `examples` are opening, chosen and rejected of some rows.
    """

    contradictions: Contradictions
    source: Mapping[str, str]
    topic: Mapping[str, str]
    pairs: Mapping[str, int]
    examples: Mapping[int, tuple[str, str, str]]
    bad_rows: int = 0


def read_pair_facts(reader: Callable[..., PairReader], labels: Sequence[str]) -> PairFacts:
    """Read pairs once for what they tell, and again up to the last row of which an example is shown."""
    finder, pairs = ContradictionFinder(), Counter[str]()
    source: dict[str, str] = {}
    topic: dict[str, str] = {}
    read = reader(labels=tuple(labels))
    try:
        for pair in with_progress(finder.watch(read), "pairs"):
            one = pair.prefix.id
            pairs[one] += 1
            for told, value in ((source, pair.src), *((topic, pair.labels[name]) for name in labels)):
                if told.setdefault(one, value) != value:
                    told[one] = SEVERAL
    except InputError as error:  # bad rows, or none that is good
        if not labels:
            raise
        raise InputError(f"{labels[0]}, which --topic names, is no column of single values: {error}") from error
    contradictions = finder.result()
    rows = {row for both in contradictions.reversed_examples for row in both}
    examples = {}
    for pair in reader() if rows else ():
        if pair.row in rows:
            examples[pair.row] = (pair.prefix.opening, pair.chosen, pair.rejected)
            if len(examples) == len(rows):
                break
    return PairFacts(
        contradictions, source=source, topic=topic, pairs=pairs, examples=examples, bad_rows=read.stats.bad
    )


def texts_of(prefixes: Iterable[Prefix]) -> dict[str, str]:
    """Return the beginnings of openings by id; of contexts, with the later message that tells them apart."""
    told: dict[str, str] = {}
    contexts: list[Prefix] = []
    for one in prefixes:
        if one.id == opening_id(one.opening):
            told[one.id] = one.opening[:LETTERS]
        else:
            short = [m | {"content": m["content"][:LETTERS]} if m.get("content") else m for m in one.messages]
            contexts.append(Prefix(one.id, short))
    for name, heading in headings(contexts).items():
        told[name] = f"{heading.opening} … {heading.later}" if heading.later else heading.opening
    return told
