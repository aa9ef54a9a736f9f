"""Text from files in a line of a report: escaped (`kat.terminal`), and cut where it is long."""

from __future__ import annotations

from kat.terminal import escaped


def heading_text(opening: str, later: str, width: int) -> str:
    """Return a conversation's opening; shortened, where a later message of it says more, with that message."""
    if not later:
        return shortened(opening, width)
    start = shortened(opening, max(width // 4, 12))
    return f"{start} … {shortened(later, width - len(start) - 3)}"


def shortened(text: str, width: int) -> str:
    """Return the beginning of a text, its white space collapsed as in an opening's id."""
    return printable(" ".join(text[: 4 * width].split()), width)


def printable(name: str, width: int) -> str:
    """Return a name of any kind, escaped and cut to `width`; no escape is cut in two."""
    line = escaped(name[: width + 1])
    if len(line) <= width and len(name) <= width:
        return line
    end = width - 1
    # Characters of the name are put in until their escapes no longer fit.
    kept = next(n for n in range(min(end, len(name)), -1, -1) if len(escaped(name[:n])) <= end)
    return escaped(name[:kept]) + "…"
