"""What to show of conversations in a list: their opening, and of contexts what tells them apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kat.data.openings import opening_id
from kat.records import Prefix, message_text


@dataclass(frozen=True)
class Heading:
    """The opening of a conversation, and the later message that tells it from others; empty where there is none."""

    opening: str
    later: str = ""


def headings(prefixes: Iterable[Prefix]) -> dict[str, Heading]:
    """Return what to show of prefixes in one list, by id.

    Of an opening that is all of it. A context, whose id is not its opening's, shows its last user message too; those
    that share both show the last message in which they differ.
    """
    result: dict[str, Heading] = {}
    alike: dict[Heading, list[Prefix]] = defaultdict(list)
    for prefix in prefixes:
        if prefix.id == opening_id(prefix.opening):
            result[prefix.id] = Heading(prefix.opening)
        else:
            alike[_heading(prefix)].append(prefix)
    for heading, sharing in alike.items():
        later = _difference(sharing) if len(sharing) > 1 else {}
        result |= {prefix.id: Heading(heading.opening, later.get(prefix.id) or heading.later) for prefix in sharing}
    return result


def _heading(prefix: Prefix) -> Heading:
    users = [message_text(message) for message in prefix.messages if message["role"] == "user"]
    return Heading(prefix.opening, users[-1] if len(users) > 1 else "")


def _difference(prefixes: list[Prefix]) -> dict[str, str]:
    """Return, by id, the message in which prefixes differ, the last such counted from their ends."""
    for back in range(1, max(len(prefix.messages) for prefix in prefixes) + 1):
        texts = {p.id: message_text(p.messages[-back]) if back <= len(p.messages) else "" for p in prefixes}
        if len(set(texts.values())) > 1:
            return texts
    return {}
