"""Text from files, made fit for a terminal."""

from __future__ import annotations


def heading_text(opening: str, later: str, width: int) -> str:
    """Return a conversation's opening; shortened, where a later message of it says more, with that message."""
    if not later:
        return printable(opening, width)
    start = printable(opening, max(width // 4, 12))
    return f"{start} … {printable(later, width - len(start) - 3)}"


def printable(text: str, width: int) -> str:
    """Return one line that no control character can disturb, cut to `width`."""
    line = " ".join(text[: 4 * width].split())
    line = "".join(c if c.isprintable() else "�" for c in line)
    return line if len(line) <= width else line[: width - 1] + "…"
