"""What an embedding run did, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kat.embedding.boilerplate import Boilerplate
from kat.reports.console.text import shortened


def model_text(meta: Mapping[str, Any]) -> str:
    """Name a model with its dimensions, by the facts of `Encoder.meta`."""
    return f"{meta['name']} ({meta['dimension']} dimensions, {meta['precision']})"


def embed_lines(lengths: np.ndarray, meta: Mapping[str, Any], made_ids: int) -> list[str]:
    """Describe an embedding run.

    `lengths` [N, 2] are tokens of each text and tokens lost, `meta` the facts of `Encoder.meta`.
    """
    tokens, lost = lengths.T
    lines = [f"{len(lengths):,} texts, {int(tokens.sum(dtype=np.int64)):,} tokens with {model_text(meta)}"]
    if cut := int((lost > 0).sum()):
        kept = {"tail": "end", "head": "beginning"}.get(meta["long_text"], "all")
        total = int(lost.sum(dtype=np.int64))
        lines.append(
            f"  {cut:,} texts are longer than {meta['max_tokens']} tokens: their {kept} was kept, {total:,} tokens lost"
        )
    if deep := int((lost > 0.9 * tokens).sum()):
        lines.append(f"  {deep:,} of them kept less than a tenth of their tokens")
    if (chunked := int((tokens > meta["max_tokens"]).sum())) and meta["long_text"] == "chunk":
        lines.append(f"  {chunked:,} texts are longer than {meta['max_tokens']} tokens: read in pieces, none lost")
    if made_ids:
        lines.append(f"  {made_ids:,} rows had no id; it was computed from the opening")
    return lines


def inside_lines(notes: Sequence[str], without: Mapping[str, int]) -> list[str]:
    """Say which conversations inside a text were met, and how many texts do not show what the others do."""
    return [*(f"  {note}" for note in notes), *(f"  {n:,} texts without {name}" for name, n in without.items())]


def boilerplate_lines(boilerplate: Boilerplate, changed: int | None = None) -> list[str]:
    """Say what was left out of texts because most of them share it, and of how many if that is known."""
    names = {"system": "system prompt", "leading": "passage at the beginning", "trailing": "passage at the end"}
    lines = [
        f"  {names[name]} that most share, left out ({len(text.split())} words): {shortened(text, 60)}"
        for name, text in boilerplate.as_dict().items()
    ]
    if changed is not None:
        lines.append(f"  left out of {changed:,} texts; --boilerplate keep reads it too")
    return lines if boilerplate else []


def unread_lines(unread: Mapping[str, Any]) -> list[str]:
    """Describe what a model could not read, by the facts of `UnreadTexts`."""
    lines = []
    if empty := unread.get("empty_texts"):
        lines.append(f"  {empty:,} texts are empty: all have the same vector")
    if nothing := unread.get("texts_without_tokens"):
        lines.append(f"  {nothing:,} texts are not empty, but the tokenizer leaves nothing of them")
    if unknown := unread.get("unknown_tokens"):
        lines.append(f"  {unknown:,} tokens are unknown to the model")
    if mostly := unread.get("mostly_unknown_texts"):
        scripts = ", ".join(
            f"{name} {one['texts']:,} ({one['unknown_share']:.0%} unknown)" for name, one in unread["scripts"].items()
        )
        lines.append(f"  {mostly:,} texts are unknown to the model for more than {unread['mostly']:.0%}: {scripts}")
    return lines
