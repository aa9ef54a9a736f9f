"""One row of a file with its place, and the count of those that cannot be used."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kat.data.kinds import seems_to_be
from kat.errors import BadRowsError, OptionError
from kat.inputs import InMemory, Inputs, input_files, input_text
from kat.terminal import shell_word

_SHOWN = 20
"""Reasons that an error lists."""
_OPTION = re.compile(r"--(\w+)")
"""A flag that a reason names, for which Python has a field of an option."""


class BadRow(ValueError):
    """Why a row cannot be used: a short reason from a fixed set, so that it can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read. `raw` are its bytes (of a table: its JSON); `value` its object unless `fault` says why not.

    `number` is unique over the whole input and ascends: of a single file it is the line (or the row of a table, or the
    item of a JSON array); of several it runs on. `line` is the line in the row's own `file`, where that is another
    number or the input is not that file. `skipped` names columns of the file that are not in `value`, for they hold
    bytes and were not decoded; `media` those of them that are pictures or sound by their type. `all_text` says
    that the file's cells are text whatever they stand for (CSV).
    """

    number: int
    raw: bytes
    value: dict[str, Any] | None
    fault: str | None = None
    skipped: tuple[str, ...] = ()
    line: int | None = None
    file: Path | None = None
    all_text: bool = False
    media: tuple[str, ...] = ()

    def place(self, path: Inputs) -> str:
        """Return "file:line", the file being `path` unless the row knows its own, or "row 7 of the DataFrame"."""
        if isinstance(path, InMemory):
            return f"row {self.number} of {path.name}"
        return f"{self.file or input_text(path)}:{self.line or self.number}"


_COMPLETIONS = ("chosen", "rejected", "response", "output", "answer", "completion", "messages", "conversations")


@dataclass
class BadRows:
    """Count bad rows by reason, and compare the total with a limit when the file is through.

    `sink`, if given, receives each as `{"file", "line", "reason", "raw"}` in one line of JSON.
    """

    path: Inputs
    limit: int | str = 0
    sink: Callable[[bytes], object] | None = None
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)
    _unparsed: int = 0
    _prompts: int = 0

    def __post_init__(self) -> None:
        if self.limit != "all" and (not isinstance(self.limit, int) or self.limit < 0):
            raise OptionError(f'max_bad_rows is {self.limit!r}; expected a whole number of 0 or more, or "all".')

    @property
    def total(self) -> int:
        """Return the number of bad rows so far."""
        return sum(n for n, _ in self.counts.values())

    def places(self) -> dict[str, str]:
        """Return how many rows are bad, and where the first is, by reason."""
        return {reason: f"{n:,}, first at {first}" for reason, (n, first) in self.counts.items()}

    def add(self, row: Row, reason: str) -> None:
        """Count a row, and hand it to the sink."""
        count, first = self.counts.get(reason, (0, row.place(self.path)))
        self.counts[reason] = (count + 1, first)
        self._unparsed += row.value is None
        self._prompts += holds_a_prompt_alone(row.value)
        if self.sink:
            self.sink(rejected_line(self.path, row, reason))

    def check(self, kept: int | None = None) -> None:
        """Raise BadRowsError if more rows were bad than allowed. `kept` is how many were not, if that is known."""
        if self.limit == "all" or self.total <= int(self.limit):
            return
        lines = [f"{n:,} × {reason}, first at {first}" for reason, (n, first) in self.counts.items()]
        if len(lines) > _SHOWN:  # reasons that name a key or a value may be as many as the rows
            lines[_SHOWN:] = [f"and {len(lines) - _SHOWN:,} other reasons"]
        rows = "row is" if self.total == 1 else "rows are"
        head = f"{self.total:,} {rows} unusable and {int(self.limit):,} allowed"
        if isinstance(self.path, InMemory):
            shown = (_OPTION.sub(r"ReadOptions \1", line) for line in [*lines, self._remedy(kept)])
            raise BadRowsError(f"{head}:", *(f"  {line}" for line in shown), counts=dict(self.counts))
        head += "; nothing was written:"
        raise BadRowsError(head, *(f"  {line}" for line in [*lines, self._remedy(kept)]), counts=dict(self.counts))

    def _remedy(self, kept: int | None) -> str:
        """To step over rows is no advice where one reason holds for most of them: the file is something else."""
        most = max(n for n, _ in self.counts.values())
        if kept is None or most <= kept or 2 * most <= self.total + kept:
            if isinstance(self.path, InMemory):
                return 'Mend them, or step over them with max_bad_rows="all".'
            if self.sink is None:
                return "Mend them, or step over them with --max_bad_rows all."
            return "Mend them, or set them aside with --max_bad_rows all (they go to OUT.rejected.jsonl)."
        reason, (_, first) = max(self.counts.items(), key=lambda item: item[1][0])
        only = f"Only {kept:,} of {self.total + kept:,} rows can be used."
        if " (--" in reason:  # it names the option that decides
            return f"{only} Say what to do with the others: {reason.rpartition(' (')[2].rstrip(')')}"
        if isinstance(self.path, InMemory):
            return f"{only} Look at {first}."
        if 2 * self._prompts > self.total:
            return f"{only} {prompts_alone(self.path)}"
        guess = seems_to_be(input_files(self.path)[0].path) if 2 * self._unparsed > self.total else None
        return f"{only} {guess or f'Look at {first} and convert the file.'}"


def holds_a_prompt_alone(value: Any) -> bool:
    """Whether a row is a prompt, as `kat embed` reads it, and nothing in it is called like a completion."""
    if not isinstance(value, dict) or not {"prefix", "prompt"} & value.keys():
        return False
    return not any(mark in name for name in value for mark in _COMPLETIONS)


def prompts_alone(path: Inputs) -> str:
    """Return what to do with a file of prompts where pairs are read."""
    name = shell_word(str(input_files(path)[0].path))
    return (
        "They are prompts without completions, and no pairs. To weigh prompts alone: "
        f"kat embed {name} --out EMBEDDINGS, then kat density EMBEDDINGS --out WEIGHTS"
    )


def rejected_line(path: Inputs, row: Row, reason: str) -> bytes:
    """Return a bad row unchanged as a line of JSON: as text, or as base64 (and says so) where it is no UTF-8."""
    file = row.file or Path(input_text(path))
    record: dict[str, Any] = {"file": path_text(file), "line": row.line or row.number, "reason": reason}
    try:
        record["raw"] = row.raw.decode("utf-8")
    except UnicodeDecodeError:
        record |= {"raw": base64.b64encode(row.raw).decode("ascii"), "raw_encoding": "base64"}
    return orjson.dumps(record) + b"\n"


def path_text(path: Path) -> str:
    """Return a path as text that JSON can hold, also where the file's name is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
