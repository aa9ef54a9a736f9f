"""Text from files, made fit for a terminal."""

from __future__ import annotations


def printable(text: str, width: int) -> str:
    """Return one line that no control character can disturb, cut to `width`."""
    line = " ".join(text[: 4 * width].split())
    line = "".join(c if c.isprintable() else "�" for c in line)
    return line if len(line) <= width else line[: width - 1] + "…"
