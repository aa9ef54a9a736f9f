"""Which prompts a model read in part, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def prompt_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for prompts that lost their beginning, and one for those whose tools are not written, if any are:
    facts of older versions may not have these."""
    if facts.get("prompts_cut"):
        yield f"  prompts cut at their start {facts['prompts_cut']:,}"
    if count := facts.get("prompts_whose_tools_are_not_written"):
        yield f"  WARNING  the chat template does not write the tools of {count:,} prompts"
