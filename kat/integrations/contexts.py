"""The distinct contexts of the pairs, and what their columns must carry: one pass that every export looks at first."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from kat.integrations.rows import PARTS, WeighedPair, context_of, sides_of
from kat.records import Message, Pair

_PLAIN = {"role", "content"}


def context_id(messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
    """Return the first 16 hex digits of the md5 of a context: its messages with all their keys, and its tools, as JSON
    with sorted keys.

    Contexts that differ in a tool call, a name or their tools have ids of their own.
    """
    text = orjson.dumps([messages, tools or None], option=orjson.OPT_SORT_KEYS)
    return hashlib.md5(text, usedforsecurity=False).hexdigest()[:16]


@dataclass
class Contents:
    """What the pairs of both parts hold, which decides about columns.

    `rich` says that a message has other keys than role and content, or content that is no text; `tools`, `margin`,
    `prefill` count pairs with tools, a margin, and a context that ends on an assistant's turn. `contexts` counts the
    distinct contexts of each opening, by part. `left_out` is filled by an export: pairs that the format of a data set
    cannot hold, by its name.
    """

    rich: bool = False
    tools: int = 0
    margin: int = 0
    prefill: int = 0
    contexts: dict[str, Counter[str]] = field(default_factory=lambda: {part: Counter() for part in PARTS})
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Tell whether an opening has more than one context: prompts are then named by their context too."""
        return any(count > 1 for counts in self.contexts.values() for count in counts.values())


def contents_of(pairs: Iterable[WeighedPair]) -> Contents:
    """Look at all pairs once. Memory grows with the distinct contexts, by their ids alone."""
    contents = Contents()
    seen: set[tuple[str, str]] = set()
    for weighed in pairs:
        pair, messages = weighed.pair, context_of(weighed.pair)
        contents.tools += bool(pair.tools)
        contents.margin += pair.margin is not None
        contents.prefill += messages[-1]["role"] == "assistant"
        contents.rich = contents.rich or _is_rich(pair)
        key = weighed.part, context_id(messages, pair.tools)
        if key not in seen:
            seen.add(key)
            contents.contexts[weighed.part][pair.prefix.id] += 1
    return contents


def _is_rich(pair: Pair) -> bool:
    sides = sides_of(pair)
    messages = (*context_of(pair), *sides["chosen"], *sides["rejected"])
    return any(m.keys() != _PLAIN or not isinstance(m["content"], str) for m in messages)


@dataclass(frozen=True)
class Prompt:
    """A context to ask: its messages and tools, the ids of its opening and of itself, and its part of what its
    opening is drawn by."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    opening_id: str
    context_id: str
    w: float

    def ids(self, contents: Contents) -> dict[str, str]:
        """Return the columns that name it: by its opening alone where each has one context."""
        ids = {"opening_id": self.opening_id}
        return ids | {"context_id": self.context_id} if contents.several else ids


def prompts_of(pairs: Iterable[WeighedPair], part: str, contents: Contents) -> Iterator[Prompt]:
    """Yield every distinct context of a part, where it first appears.

    An opening keeps its weight w: each of its c contexts has w/c. How many judgements a context got says nothing about
    how often it should be asked, so pairs are not counted.
    """
    counts = contents.contexts[part]
    seen: set[str] = set()
    for weighed in pairs:
        if weighed.part != part:
            continue
        pair, messages = weighed.pair, context_of(weighed.pair)
        if (name := context_id(messages, pair.tools)) not in seen:
            seen.add(name)
            opening = pair.prefix.id
            yield Prompt(messages, pair.tools or None, opening, name, weighed.w / counts[opening])
