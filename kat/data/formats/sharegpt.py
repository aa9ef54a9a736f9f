"""ShareGPT's format as LLaMA-Factory ranks it: the turns under `conversations`, the completions as turns or text.

`messages` in the place of `conversations` is read alike.
"""

from __future__ import annotations

from typing import Any

from kat.data.conversations import Preference, has_completions, messages_of, whole_conversations
from kat.data.formats import Format, context_column


def matches(value: dict[str, Any]) -> bool:
    """Tell whether a row holds conversations, and completions beside them that are no conversations themselves."""
    if context_column(value) not in ("conversations", "messages"):
        return False
    # Without a `chosen` beside them the messages end with it: ms-swift's format.
    return "chosen" in value and has_completions(value) and not whole_conversations(value)


def parse(value: dict[str, Any]) -> Preference:
    """Take a row apart; see `Format`."""
    name = "conversations" if isinstance(value.get("conversations"), list) else "messages"
    return Preference(messages_of(value[name], name), value.get("chosen"), value.get("rejected"))


PLUGIN = Format(
    name="sharegpt",
    help="the turns under conversations (from/value or role/content), the completions as turns or text",
    matches=matches,
    parse=parse,
    example={
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "So."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    more_columns=("messages",),
)
