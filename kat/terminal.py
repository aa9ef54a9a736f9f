"""What kat prints: every line goes through here, so that nothing that a file holds drives a terminal.

Ids, texts, names and reasons come from files, and may hold what moves a cursor, colours a screen, starts a line or
turns the order of reading. `escaped` shows such characters as Python writes them (`\\x1b`, `\\n`, `\\u202e`) and leaves
what can be read as it is. `show` and `note` are the only places where kat writes to stdout and stderr.

How much is printed, and in what form, is one `Voice` for the process, which the command line sets (`speaking`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_JOINERS = "\u200c\u200d"
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
"""Letters and marks that leave no trace, which `str.isprintable` takes for visible."""
_AS_IT_IS: Any = {"replace_whitespace": False, "break_long_words": False, "break_on_hyphens": False}
_KEYCAP, _VIRAMA = "\u20e3", 9


def escaped(text: str) -> str:
    """Return text in which every character that cannot be seen, or that does more than be seen, is an escape.

    That is controls (C0, C1, DEL), line and paragraph separators, formats (bidirectional ones, zero-width ones, tags),
    lone surrogates, private and unassigned characters, and letters without a trace. Accents, combining marks and blanks
    of any width stay. A joiner stays where writing needs it (inside emoji, beside an Indic virama, between Arabic
    letters), for there it changes what is seen; anywhere else it would only make two names look alike, as would a
    variation selector on a letter of Latin.

    A backslash stays too: escapes are to be read, not to be turned back, and what is escaped already stays the same.
    """
    if text.isascii() and text.isprintable():
        return text
    parts = [" "]
    for char, after in zip(text, f"{text[1:]} ", strict=True):
        # What stands before is what is shown of it: the last character of an escape is a letter or a digit.
        parts.append(char if _is_seen(char, parts[-1][-1], after) else _escape(char))
    return "".join(parts[1:])


def _is_seen(char: str, before: str, after: str) -> bool:
    if char in _JOINERS:
        return _joins(char, before, after)
    if _is_selector(char):
        return after == _KEYCAP or unicodedata.category(before) in ("So", "Sm", "Po", "Pd", "Lo")
    return unicodedata.category(char) == "Zs" or (char.isprintable() and char not in _INVISIBLE)


def _joins(char: str, before: str, after: str) -> bool:
    """Whether a joiner changes what is seen: rules of Unicode Technical Standard 51 and RFC 5892, appendix A."""
    if unicodedata.combining(before) == _VIRAMA or unicodedata.combining(after) == _VIRAMA:
        return True
    if _is_arabic(before) and _is_arabic(after):
        return True
    emoji = unicodedata.category(before) == "So" or before == "\ufe0f" or "\U0001f3fb" <= before <= "\U0001f3ff"
    return char == "\u200d" and emoji and unicodedata.category(after) == "So"


def _is_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def _is_arabic(char: str) -> bool:
    return ("\u0620" <= char <= "\u06ff" or "\u0750" <= char <= "\u077f") and char.isprintable()


def _escape(char: str) -> str:
    code = ord(char)
    wide = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _SHORT.get(char, wide)


@dataclass
class Voice:
    """How much is printed: with `quiet` notes and errors alone, with `verbose` more; as `told`, one object at the end.

    The lists are what that object holds: outputs that were made or skipped, lines, notes, and what to do next; the
    `figures` are those of a command that makes no output.
    """

    quiet: bool = False
    verbose: bool = False
    told: bool = False
    outputs: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """Return what the object holds, without how the command ended."""
        return {name: getattr(self, name) for name in ("outputs", "figures", "lines", "notes", "next")}


_voices = [Voice()]
"""The process's voice is the last one."""


def voice() -> Voice:
    """Return the voice that is set."""
    return _voices[-1]


@contextlib.contextmanager
def speaking(voice: Voice) -> Iterator[None]:
    """Set the process's voice for as long as this lasts. Bars stay away with `quiet` and `told`, of workers too."""
    bars = os.environ.get("TQDM_DISABLE")
    _voices.append(voice)
    if voice.quiet or voice.told:
        os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        _voices.remove(voice)
        if bars is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = bars


def bar_off(shown: bool = True) -> bool | None:
    """Return what tqdm is to be told as `disable`: None, which leaves bars to terminals, or True for none at all.

    tqdm reads TQDM_DISABLE too, but what it is told wins."""
    return True if not shown or voice().quiet or voice().told or os.environ.get("TQDM_DISABLE") else None


def show(*lines: str) -> None:
    """Print lines to stdout, each on one line whatever it holds."""
    if voice().told:
        voice().lines += lines
    elif not voice().quiet:
        _print(lines, sys.stdout)


def show_more(*lines: str) -> None:
    """Print lines to stdout if more is to be said than usual."""
    if voice().verbose:
        show(*lines)


def show_fitted(*lines: str) -> None:
    """Print lines to stdout, on a terminal broken at blanks where they are longer than it is wide.

    What goes on stands under the text behind a line's label. Commands are no such lines: broken, they cannot be copied.
    """
    if voice().told or not sys.stdout.isatty():
        show(*lines)
        return
    columns = shutil.get_terminal_size().columns
    for line in lines:
        label = re.match(r" *\S+(?: \S+)*  +", line)
        start = len(line) - len(line.lstrip()) + 2
        indent = " " * (label.end() if label is not None and label.end() < columns // 2 else start)
        show(*textwrap.wrap(line, columns, subsequent_indent=indent, **_AS_IT_IS) or [line])


@contextlib.contextmanager
def waiting(text: str, seconds: float = 1.0) -> Iterator[None]:
    """Say on a terminal what is waited for, if this lasts longer than that."""
    if voice().quiet or voice().told or not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(seconds, note, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def note(*lines: str) -> None:
    """Print lines to stderr, each on one line whatever it holds."""
    voice().notes += lines if voice().told else ()
    _print(lines, sys.stderr)


def tell_figures(**figures: Any) -> None:
    """Add the figures of a command that makes no output to the object that is printed at its end, if one is."""
    if voice().told:
        voice().figures |= figures


def print_object(content: dict[str, Any]) -> None:
    """Print one JSON object to stdout, in ASCII: what its texts hold drives no terminal.

    Dataclasses become objects, paths texts, arrays lists, and numbers that JSON does not have null.
    """
    print(json.dumps(_plain(content), allow_nan=False), file=sys.stdout)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else value  # of numpy


def _print(lines: tuple[str, ...], stream: TextIO) -> None:
    for line in lines:
        print(escaped(line), file=stream)


def width(most: int = 100) -> int:
    """Return the columns to fill: those of the terminal, 60 at least and `most` at most, which a pipe has."""
    return min(max(shutil.get_terminal_size((most, 24)).columns, 60), most)


def shell_word(text: str) -> str:
    """Return a text as a shell takes it, so that a command which is shown can be typed.

    What would be escaped stands in the quotes of bash and zsh for that, byte by byte.
    """
    if escaped(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(map(_shell_char, text)) + "'"


def _shell_char(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if escaped(char) == char:
        return char
    # A byte of a file's name that is no UTF-8 is a surrogate of this range (`os.fsdecode`).
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))


def command_line() -> str:
    """Return the command that this process runs, as it can be typed again."""
    program, *words = sys.argv or [""]
    path = Path(program)
    if (
        path.name == "kat"
        or path.parts[-3:] == ("kat", "cli", "__main__.py")
        or path.parts[-2:] == ("kat", "__main__.py")
    ):
        program = "kat"
    elif path.parent.name == "scripts" and path.suffix == ".py":
        program = f"python -m scripts.{path.stem}"
    else:
        program = shell_word(program)
    return " ".join([program, *map(shell_word, words)])
