"""What of the rows and prompts was not read, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def bad_row_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each reason of rows that were passed over, with their number and the first."""
    for reason, places in facts.get("bad_rows", {}).items():
        yield f"  bad rows passed over       {reason}: {places}"


def prompt_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for prompts that lost their beginning, and one for those whose tools are not written, if any are:
    facts of older versions may not have these."""
    if facts.get("prompts_cut"):
        yield f"  prompts cut at their start {facts['prompts_cut']:,}"
    if count := facts.get("prompts_whose_tools_are_not_written"):
        yield f"  WARNING  the chat template does not write the tools of {count:,} prompts"
