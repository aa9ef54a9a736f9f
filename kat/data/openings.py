"""Openings, the unit of density: their ids, and the one prefix kept for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from kat.data.conversations import message_parts, opening_of
from kat.data.in_memory import checked_pairs
from kat.records import Message, Pair, Prefix, message_text


@lru_cache(maxsize=16_384)  # the pairs of an opening come by again and again
def opening_id(opening: str) -> str:
    """Return the first 16 hex digits of the md5 of the opening, white space collapsed and stripped, UTF-8.

    >>> kat.opening_id("What is 2 + 2?")
    '0c1410da6636525d'
    """
    collapsed = " ".join(opening.split())
    return hashlib.md5(collapsed.encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


def unit_id(messages: list[Message], unit: str) -> str:
    """Return the id of a prefix: its opening's, or with unit "context" a hash of all that its messages say.

    The latter is made like the former, the first 16 hex digits of an md5, of roles, contents and calls in order. Raises
    BadRow without a user message, or with one of white space that comes first.
    """
    opening = opening_of(messages)
    if unit == "opening":
        return opening_id(opening)
    parts = "\x1e".join("\x1f".join(message_parts(message)) for message in messages)
    return hashlib.md5(parts.encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


def several_contexts(read: Callable[[], Iterable[Pair]], most: int, contexts: int) -> list[list[Prefix]]:
    """Return some openings' distinct prefixes: of those with several, `most` with smallest ids, `contexts` of each.

    Ids are hashes, so that these are a sample, and one that the order of the pairs does not change. The pairs are read
    twice, so that no texts are held but those returned.
    """
    keys: dict[str, list[str]] = {}
    for pair in read():
        met = keys.setdefault(opening_id(pair.prefix.opening), [])
        key = unit_id(pair.prefix.messages, "context")
        if key not in met:
            met[:] = sorted([*met, key])[:contexts]
    chosen = sorted(opening for opening, met in keys.items() if len(met) > 1)[:most]
    prefixes: dict[str, Prefix] = {}
    sampled = {key for opening in chosen for key in keys[opening]}
    for pair in read():
        key = unit_id(pair.prefix.messages, "context")
        if key in sampled:
            prefixes.setdefault(key, pair.prefix)
    return [[prefixes[key] for key in keys[opening]] for opening in chosen]


@dataclass(frozen=True)
class OpeningStats:
    """Pairs and openings counted; `several` are the openings that were met with more than one prefix."""

    pairs: int
    openings: int
    several: int

    @property
    def removed(self) -> float:
        """Return the share of pairs that brought no new opening."""
        return 1 - self.openings / self.pairs if self.pairs else 0.0


def unique_prefixes(pairs: Iterable[Pair]) -> list[Prefix]:
    """Return one prefix for each distinct opening, in order of first appearance.

    Which one is kept does not depend on the order of the pairs: the one with fewest messages, then fewest UTF-8
    bytes of content, then smallest bytes of content. Raises InputError for what are no pairs.

    >>> pairs = kat.read_pairs([{"prompt": "2 + 2?", "chosen": "4", "rejected": wrong} for wrong in ("5", "6")])
    >>> [prefix.opening for prefix in kat.unique_prefixes(pairs)]
    ['2 + 2?']
    """
    return collect_openings(checked_pairs(pairs, "unique_prefixes"))[0]


def collect_openings(pairs: Iterable[Pair]) -> tuple[list[Prefix], OpeningStats]:
    """Return `unique_prefixes` of the pairs, and what was met on the way."""
    best: dict[str, Prefix] = {}
    several: set[str] = set()
    n_pairs = 0
    for pair in pairs:
        n_pairs += 1
        new = pair.prefix
        kept = best.setdefault(new.id, new)
        if kept is new or kept.messages == new.messages:
            continue
        several.add(new.id)
        if _rank(new) < _rank(kept):
            best[new.id] = new
    return list(best.values()), OpeningStats(n_pairs, len(best), len(several))


def _rank(prefix: Prefix) -> tuple[int, int, bytes, list[bytes], list[str], list[str]]:
    """The prefix of smallest rank is the one that is kept."""
    contents = [message_text(m).encode("utf-8") for m in prefix.messages]
    # Boundaries, roles and all else that messages hold decide between prefixes whose joined content is the same.
    parts = [part for m in prefix.messages for part in message_parts(m)]
    roles = [m["role"] for m in prefix.messages]
    return len(contents), sum(map(len, contents)), b"".join(contents), contents, roles, parts
