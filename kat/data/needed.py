"""Which columns of a table each kind of rows needs (`kat.data.readers.tables`)."""

from __future__ import annotations

from collections.abc import Collection

from kat.data.media import MEDIA
from kat.data.readers.tables import Needed

SYSTEM = ("system", "system_prompt", "system_message")
"""Columns that hold the system message, under any of these names."""
CONTEXT_PARTS = frozenset({"history", "documents", "chat_template_kwargs"})
"""Columns that a prompt is made with, and that only some formats carry: elsewhere the prompt would be another one."""
OF_PROMPTS = frozenset({"id", "prefix", "prompt", "tools", *SYSTEM})
"""Columns of a row to embed that are read."""


def needed_among(names: Collection[str]) -> Needed:
    """Say of a column that it is needed if it is one of those or belongs to a prompt, and else may show pictures."""
    known = frozenset(names) | MEDIA.keys() | CONTEXT_PARTS
    return lambda name: name in known


needed_of_prompts = needed_among(OF_PROMPTS)
