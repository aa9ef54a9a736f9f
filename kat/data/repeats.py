"""What a pair says, as one identity: ids of content, repeats and preferences that another pair reverses."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from kat.data.conversations import message_parts
from kat.records import Message, Pair, canonical_json


def context_parts(pair: Pair) -> list[str]:
    """Return all that comes before the completions as texts: every turn with its calls, and the tools."""
    parts = [part for m in pair.context or pair.prefix.messages for part in message_parts(m)]
    return parts if pair.tools is None else [*parts, canonical_json(pair.tools)]


def completion_parts(text: str, messages: Sequence[Message]) -> tuple[str, ...]:
    """Return a completion as texts: itself if it is one turn of plain text, else every turn with its calls."""
    if not messages or (len(messages) == 1 and len(messages[0]) == 2):
        return (text,)
    return tuple(part for m in messages for part in message_parts(m))


def pair_parts(pair: Pair) -> list[str]:
    """Return all that a pair says, as texts that are equal for equal pairs."""
    ends = completion_parts(pair.chosen, pair.chosen_messages), completion_parts(pair.rejected, pair.rejected_messages)
    return [*context_parts(pair), *ends[0], *ends[1]]


def content_id(parts: Sequence[str]) -> str:
    """Return an id for a pair without one: of its content, so that it does not depend on its place in the file."""
    return hashlib.md5("\x1e".join(parts).encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


class Repeats:
    """Count repeated pairs in 24 bytes a pair, by 64-bit hashes: a false match is rarer than 1 in 10⁵ at 10⁷ pairs."""

    def __init__(self) -> None:
        self._ids, self._ordered, self._unordered = array("q"), array("q"), array("q")

    def add(self, pair: Pair) -> None:
        """Count one pair."""
        context = hash(tuple(context_parts(pair)))
        chosen = hash(completion_parts(pair.chosen, pair.chosen_messages))
        rejected = hash(completion_parts(pair.rejected, pair.rejected_messages))
        self._ids.append(hash(pair.id))
        self._ordered.append(hash((context, chosen, rejected)))
        self._unordered.append(hash((context, min(chosen, rejected), max(chosen, rejected))))

    def counts(self) -> dict[str, int]:
        """Return how many pairs repeat others, by kind; kinds that were not met are left out."""
        import numpy as np

        ids, ordered, unordered = (np.frombuffer(a, np.int64) for a in (self._ids, self._ordered, self._unordered))
        _, first, multiplicity = np.unique(ordered, return_index=True, return_counts=True)
        # Among distinct pairs, two that agree once the order is gone are each other's reverse.
        _, orders = np.unique(unordered[first], return_counts=True)
        counts = {  # the names are keys of files of statistics
            "exact duplicates of an earlier pair": int((multiplicity - 1).sum()),
            "judgements that another pair reverses": int(orders[orders > 1].sum()),
            "ids used before": len(ids) - len(np.unique(ids)),
        }
        return {name: n for name, n in counts.items() if n}
