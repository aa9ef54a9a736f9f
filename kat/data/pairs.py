"""Reading preference pairs of any known format, streamed, nothing lost and nothing silent."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from kat.data.conversations import opening_of, row_id, trim
from kat.data.formats import Format, expected_formats, format_of, parse_row
from kat.data.kinds import seems_to_be
from kat.data.openings import opening_id
from kat.data.rows import BadRow, BadRows, Row, path_text, read_rows
from kat.errors import FormatError, InputError
from kat.inputs import InputFile, Inputs, input_files, input_text
from kat.records import Message, Pair, Prefix

SNIFFED = 100
"""Parseable rows that are looked at before the first one is taken apart."""
_MOST_SNIFFED = 10_000  # rows of any kind that are held for that


@dataclass
class PairStats:
    """What a reader met, complete once it is exhausted.

    `format` is the name of the file's format, `kept` counts the oddities of rows that were kept, `sources` the pairs
    of each source.
    """

    format: str = ""
    pairs: int = 0
    bad: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)


class PairReader(Iterator[Pair]):
    """Iterate over the pairs of a file, folder or glob, or of several; `stats` holds the counts, complete at the end.

    Raises FormatError with the first pair if the first 100 rows are of no known format or of two; at the end
    BadRowsError if more than `max_bad_rows` were bad, and InputError if no row was a pair. `sink` gets each bad row:
    see `BadRows`.
    """

    def __init__(
        self, path: Inputs, max_bad_rows: int | str = 0, sink: Callable[[bytes], object] | None = None
    ) -> None:
        self.path = path if not isinstance(path, str) else Path(path)
        self.bad_rows = BadRows(self.path, max_bad_rows, sink)
        self.stats = PairStats()
        self._files = input_files(self.path)
        self._sources = {file.path: path_text(Path(file.source)) for file in self._files}
        self._default_src = next(iter(self._sources.values()))
        self._pairs = self._read(read_rows(self.path))

    def __next__(self) -> Pair:
        return next(self._pairs)

    def _read(self, rows: Iterator[Row]) -> Iterator[Pair]:
        head, file_format = _sniff(rows, self.path)
        _check_shards(self._files, file_format)
        self.stats.format = file_format.name
        repeats = _Repeats()
        for row in _chained(head, rows):
            try:
                pair = self._pair(row, file_format)
            except BadRow as bad:
                self.bad_rows.add(row, bad.reason)
                continue
            repeats.add(pair)
            self.stats.pairs += 1
            self.stats.sources[pair.src] += 1
            yield pair
        self.stats.bad = self.bad_rows.total
        self.stats.kept.update(repeats.counts())
        self.bad_rows.check(self.stats.pairs)
        if not self.stats.pairs:
            raise InputError(f"{input_text(self.path)} holds no usable pair: all {self.stats.bad:,} rows are bad.")

    def _pair(self, row: Row, file_format: Format) -> Pair:
        if row.value is None:
            raise BadRow(row.fault or "not a JSON object")
        # The file's own format is asked first: nearly every row is of it. One of no format is taken apart all the
        # same, for then its fault gets a name. The two reasons stand in files of rejected rows: their words stay.
        if not file_format.matches(row.value) and format_of(row.value):
            raise BadRow(f"of another shape than the file's ({file_format.name})")
        try:
            history, chosen, rejected = parse_row(row.value, file_format)
        except (KeyError, TypeError, AttributeError):
            raise BadRow(f"not of the file's shape ({file_format.name})") from None
        messages = trim(history)
        oddities = _oddities(history, messages, chosen, rejected)
        prefix = Prefix(opening_id(opening_of(messages)), messages)
        pair_id = row_id(row.value) or _content_id(messages, chosen, rejected)
        self.stats.kept.update(oddities)
        src = row.value.get("src") or row.value.get("source")
        src = src or (self._sources[row.file] if row.file else self._default_src)
        return Pair(
            id=pair_id,
            prefix=prefix,
            chosen=chosen,
            rejected=rejected,
            src=str(src),
            row=row.number,
            context=history,
            chosen_messages=[{"role": "assistant", "content": chosen}],
            rejected_messages=[{"role": "assistant", "content": rejected}],
        )


def read_pairs(path: Inputs, max_bad_rows: int | str = 0) -> PairReader:
    """Read the pairs of a file (JSON lines, JSON, CSV, parquet, Arrow), a folder of shards or a glob, or of several.

    `max_bad_rows` is how many unusable rows to step over, or "all"; one more raises BadRowsError at the end.
    The reader's `stats` and `bad_rows` say what was met.
    """
    return PairReader(path, max_bad_rows)


def _content_id(messages: list[Message], chosen: str, rejected: str) -> str:
    """An id for a pair without one: of its text, so that it does not depend on its place in the file."""
    parts = [part for m in messages for part in (m["role"], m["content"])]
    joined = "\x1e".join([*parts, chosen, rejected])
    return hashlib.md5(joined.encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


def _oddities(history: list[Message], messages: list[Message], chosen: str, rejected: str) -> list[str]:
    oddities = []
    if messages[0]["role"] != "user":
        oddities.append(f"starts with {messages[0]['role']}")
    if len(messages) < len(history):
        oddities.append("assistant turns after the last user message, left out of the prefix")
    if "\0" in chosen or "\0" in rejected or any("\0" in m["content"] for m in messages):
        oddities.append("holds NUL")
    return oddities


class _Repeats:
    """Count repeated pairs in 24 bytes a pair, by 64-bit hashes: a false match is rarer than 1 in 10⁵ at 10⁷ pairs."""

    def __init__(self) -> None:
        self._ids, self._ordered, self._unordered = array("q"), array("q"), array("q")

    def add(self, pair: Pair) -> None:
        """Count one pair."""
        context = hash(tuple((m["role"], m["content"]) for m in pair.prefix.messages))
        chosen, rejected = hash(pair.chosen), hash(pair.rejected)
        self._ids.append(hash(pair.id))
        self._ordered.append(hash((context, chosen, rejected)))
        self._unordered.append(hash((context, min(chosen, rejected), max(chosen, rejected))))

    def counts(self) -> dict[str, int]:
        """Return how many pairs repeat others, by kind; kinds that were not met are left out."""
        import numpy as np

        ids, ordered, unordered = (np.frombuffer(a, np.int64) for a in (self._ids, self._ordered, self._unordered))
        _, first, multiplicity = np.unique(ordered, return_index=True, return_counts=True)
        # Among distinct pairs, two that agree once the order is gone are each other's reverse.
        _, orders = np.unique(unordered[first], return_counts=True)
        counts = {  # the names are keys of files of statistics
            "exact duplicates of an earlier pair": int((multiplicity - 1).sum()),
            "judgements that another pair reverses": int(orders[orders > 1].sum()),
            "ids used before": len(ids) - len(np.unique(ids)),
        }
        return {name: n for name, n in counts.items() if n}


def _check_shards(files: list[InputFile], file_format: Format) -> None:
    """Raise FormatError, naming the file, if one after the first is of another format."""
    for file in files[1:]:
        rows = read_rows(file.path)
        if (first := next(rows, None)) is None:
            continue  # an empty shard is one without pairs
        _, other = _sniff(chain([first], rows), file.path)
        if other.name != file_format.name:
            raise FormatError(
                f"{file.path} is {other.name}, and {files[0].path} is {file_format.name}. "
                "Files that are read together are of one format; read these apart."
            )


def _sniff(rows: Iterator[Row], path: Inputs) -> tuple[list[Row], Format]:
    """The first rows and the format that those of known format agree on."""
    head: list[Row] = []
    first_rows: dict[str, tuple[Format, Row]] = {}
    parseable = 0
    while parseable < SNIFFED and len(head) < _MOST_SNIFFED and (row := next(rows, None)):
        head.append(row)
        if row.value is not None:
            parseable += 1
            if row_format := format_of(row.value):
                first_rows.setdefault(row_format.name, (row_format, row))
    if not first_rows:
        raise FormatError(_unknown_format(head, path))
    (file_format, first), *others = first_rows.values()
    if others:
        other, second = others[0]
        raise FormatError(
            f"{input_text(path)} mixes formats: {_line(first)} is {file_format.name}, {_line(second)} is {other.name}. "
            "Put them into files of their own."
        )
    return head, file_format


def _line(row: Row) -> str:
    return f"line {row.line or row.number}" + (f" of {row.file}" if row.file else "")


def _unknown_format(head: list[Row], path: Inputs) -> str:
    name = input_text(path)
    if not head:
        return f"{name} holds no rows."
    first = next((r for r in head if r.value is not None), None)
    if first is None or first.value is None:
        guess = seems_to_be(head[0].file or input_files(path)[0].path)
        met = f"{name} holds no JSON object in its first {len(head)} rows; {_line(head[0])}: {head[0].fault}."
        return f"{met}\n  {guess}" if guess else met
    # ascii() so that no control character of a key reaches the terminal.
    keys = ", ".join(ascii(key)[1:-1] for key in islice(first.value, 12)) or "none"
    skipped = f" (columns of bytes are not read: {', '.join(first.skipped)})" if first.skipped else ""
    return f"{name} is of no known format: {_line(first)} has the keys {keys}{skipped};\n  {expected_formats()}"


def _chained(head: list[Row], rows: Iterator[Row]) -> Iterator[Row]:
    # Popping frees the sniffed rows as they go.
    head.reverse()
    while head:
        yield head.pop()
    yield from rows
