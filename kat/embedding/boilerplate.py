"""What most conversations of a file share and none of them means: a system prompt, a passage around the question.

It would drown what differs: one constant system prompt of 150 words changed the weights of 251 openings to a rank
correlation of 0.51 with those without it. Found once for a file, from all its rows alike, and left out of what is
embedded; the conversations themselves stay as they are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from kat.config import EmbedOptions
from kat.records import Message, Prefix
from kat.run_folder import RunFolder

LEAST_SHARE = 0.5
"""More of the conversations than this must share a passage: it is then the same whichever rows come first."""
LEAST_WORDS = 8
"""Shorter passages are ways of asking ("How do I", "What is the best way to") more often than they are a template."""
LEAST_ROWS = 20
"""Fewer conversations may well share a passage by chance."""
SAMPLED = 20_000
_LONGEST = 20_000  # characters of a passage


@dataclass(frozen=True)
class Boilerplate:
    """A system prompt, what stands before the first user message's own words, and what stands after the last one's."""

    system: str = ""
    leading: str = ""
    trailing: str = ""

    def __bool__(self) -> bool:
        return bool(self.system or self.leading or self.trailing)

    def as_dict(self) -> dict[str, str]:
        """Return what was found, for a manifest; nothing for what was not."""
        return {name: text for name, text in asdict(self).items() if text}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Boilerplate:
        """Return what a manifest holds."""
        return cls(**{name: str(value.get(name, "")) for name in ("system", "leading", "trailing")})

    def without(self, prefix: Prefix) -> Prefix:
        """Return a prefix whose messages lack the boilerplate, with the same id; no user message is left empty."""
        messages = list(prefix.messages)
        if self.system and (own := _system(messages)).startswith(self.system):
            rest = own[len(self.system) :]
            messages[:1] = [{**messages[0], "content": rest}] if rest.strip() else []
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if users and self.leading:
            messages[users[0]] = _cut(messages[users[0]], self.leading, "")
        if users and self.trailing:
            messages[users[-1]] = _cut(messages[users[-1]], "", self.trailing)
        return Prefix(prefix.id, messages)


def choose_boilerplate(options: EmbedOptions, prefixes: Iterable[Prefix]) -> Boilerplate:
    """Return what is left out of texts: what most of the prefixes share, or what was left out of other embeddings."""
    if options.boilerplate_of is not None:
        manifest = RunFolder(options.boilerplate_of).embeddings_manifest
        return Boilerplate.from_dict((manifest.get("options") or {}).get("boilerplate") or {})
    return Boilerplate() if options.boilerplate == "keep" else find_boilerplate(prefixes)


class WithoutBoilerplate:
    """The prefixes of a file without their boilerplate, as often as asked; `changed` counts those of the last pass."""

    def __init__(self, prefixes: Any, boilerplate: Boilerplate) -> None:
        self._prefixes, self._boilerplate, self.changed = prefixes, boilerplate, 0

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        self.changed = 0
        for prefix in self._prefixes:
            shorter = self._boilerplate.without(prefix)
            self.changed += shorter.messages != prefix.messages
            yield shorter


def find_boilerplate(prefixes: Iterable[Prefix]) -> Boilerplate:
    """Find what more than half of the prefixes share; nothing among fewer than LEAST_ROWS.

    Of very many, those are looked at whose ids hash low, SAMPLED to twice that: the order of rows changes nothing.
    """
    ends: list[tuple[int, str, str, str]] = []
    limit = 1 << 64
    for prefix in prefixes:
        number = int.from_bytes(blake2b(prefix.id.encode(), digest_size=8).digest(), "big")
        if number < limit:
            users = [message["content"] for message in prefix.messages if message["role"] == "user"]
            ends.append((number, _system(prefix.messages), users[0][:_LONGEST], users[-1][-_LONGEST:]))
        if len(ends) > 2 * SAMPLED:
            limit //= 2
            ends = [end for end in ends if end[0] < limit]
    if len(ends) < LEAST_ROWS:
        return Boilerplate()
    _, systems, first, last = zip(*ends, strict=True)
    system = Counter(systems)
    text, most = system.most_common(1)[0]
    # The same words in all are a system prompt, however few; where names or dates follow them, its start is.
    shared = text if text and most > LEAST_SHARE * len(first) else shared_start(systems)
    leading, trailing = shared_start(first), shared_start([text[::-1] for text in last])[::-1]
    return Boilerplate(shared, leading, trailing)


def shared_start(texts: Sequence[str]) -> str:
    """Return the longest start that more than half of the texts share, up to a word's end; "" if it is short.

    Texts that share a start stand together when sorted, so that a start of more than half of them is one of the text
    in the middle; how many share it falls with its length, which bisection uses.
    """
    ordered = sorted(texts)
    middle = ordered[len(ordered) // 2]

    def share(length: int) -> float:
        start = middle[:length]
        low = bisect_left(ordered, start)
        high = bisect_left(ordered, True, low, key=lambda text: not text.startswith(start))
        return (high - low) / len(ordered)

    low, high = 0, len(middle)
    while low < high:
        length = (low + high + 1) // 2
        low, high = (length, high) if share(length) > LEAST_SHARE else (low, length - 1)
    return _whole_words(middle, low)


def _whole_words(text: str, length: int) -> str:
    """The start of a text up to the last word that ends within `length`; "" if it has few words."""
    start = text[:length]
    if length < len(text) and not text[length].isspace() and start and not start[-1].isspace():
        start = start[: len(start) - len(start.split()[-1])] if start.split() else ""
    return start if len(start.split()) >= LEAST_WORDS else ""


def _cut(message: Message, leading: str, trailing: str) -> Message:
    content = message["content"]
    if content.startswith(leading) and content.endswith(trailing):
        rest = content[len(leading) : len(content) - len(trailing)]
        if rest.strip():  # a message of nothing else stays as it is
            return {**message, "content": rest}
    return message


def _system(messages: Sequence[Message]) -> str:
    """The content of a conversation's first message if that is a system prompt, else ""."""
    first = messages[0] if messages else {}
    return first["content"] if first.get("role") == "system" and isinstance(first.get("content"), str) else ""
