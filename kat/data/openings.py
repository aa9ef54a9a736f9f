"""Openings, the unit of density: their ids, and the one prefix kept for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from kat.data.conversations import message_parts
from kat.records import Pair, Prefix, message_text


@lru_cache(maxsize=16_384)  # the pairs of an opening come by again and again
def opening_id(opening: str) -> str:
    """Return the first 16 hex digits of the md5 of the opening, white space collapsed and stripped, UTF-8."""
    collapsed = " ".join(opening.split())
    return hashlib.md5(collapsed.encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


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
    bytes of content, then smallest bytes of content.
    """
    return collect_openings(pairs)[0]


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
