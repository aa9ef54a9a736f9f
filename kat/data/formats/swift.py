"""ms-swift's format: a conversation that ends with the chosen answer, and what was rejected in its place."""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, messages_of, preference_of
from kat.data.formats import Format, context_column, earlier_turns
from kat.data.rows import BadRow


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds a rejected response, or rejected messages, beside messages or a query."""
    if context_column(value) not in ("messages", "query") or "chosen" in value:
        return False
    return value.get("rejected_response") is not None or value.get("rejected_messages") is not None


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`. The chosen completion is what follows the last user turn."""
    if not isinstance(value.get("messages"), list):
        if not isinstance(value.get("query"), str):
            raise BadRow("query is null or not text")
        history = [*earlier_turns(value), {"role": "user", "content": value["query"]}]
        return Preference(history, value.get("response"), value.get("rejected_response"))
    messages = messages_of(value["messages"], "messages")
    if value.get("rejected_messages") is not None:
        return preference_of(messages, messages_of(value["rejected_messages"], "rejected_messages"))
    end = max((i + 1 for i, m in enumerate(messages) if m["role"] == "user"), default=0)
    # A response in text stands for the last turn; in messages, for all that follows the last user turn.
    if isinstance(value["rejected_response"], str):
        end = len(messages) - 1
    return Preference(messages[:end], messages[end:], value["rejected_response"])


PLUGIN = Format(
    name="swift",
    help="messages that end with the chosen answer, and a rejected_response or rejected_messages",
    matches=matches,
    parse=parse,
    example={
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
        "rejected_response": "No.",
    },
    more_columns=("rejected_messages", "query", "response", "history"),
)
