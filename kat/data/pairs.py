"""Reading preference pairs of any known format, streamed, nothing lost and nothing silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kat.config import ReadOptions
from kat.data.columns import Columns, Plan, labels_of, margin_of, refuse_media, tools_of, with_system
from kat.data.conversations import Preference, row_id, trim
from kat.data.formats import Format, format_of, formats, parse_row
from kat.data.in_memory import Rows, input_of
from kat.data.inside_text import notes_of
from kat.data.nesting import TOO_DEEP, nests_too_deep
from kat.data.openings import unit_id
from kat.data.repeats import Repeats, content_id, pair_parts
from kat.data.rows import BadRow, BadRows, Row, path_text, read_rows
from kat.data.scores import margin_contradicts, opposed
from kat.data.sniff import SNIFFED as SNIFFED
from kat.data.sniff import Sniffed, chained, check_shards, sniff
from kat.errors import InputError
from kat.inputs import Inputs, input_files, input_text
from kat.parameters import explained_keywords
from kat.records import Message, Pair, Prefix, conversation_text


@dataclass
class PairStats:
    """What a reader met, complete once it is exhausted.

    `format` is the name of the file's format, `kept` counts the oddities of rows that were kept, `sources` the pairs
    of each source. `dropped` counts rows that were left out because an option said so, `unread` the rows that hold a
    column which was left behind. `inside_text` says how conversations inside a text were read, or left.
    """

    format: str = ""
    pairs: int = 0
    bad: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    unread: dict[str, int] = field(default_factory=dict)
    inside_text: list[str] = field(default_factory=list)


class PairReader(Iterator[Pair]):
    """Iterate over the pairs of a file, folder or glob, or of several, or of rows in memory (`kat.read_pairs`).

    `stats` holds the counts, complete at the end.

    Raises FormatError with the first pair if the first 100 rows are of no known format or of two, InputError if they
    lack a column that is named; at the end BadRowsError if more than `max_bad_rows` were bad, and InputError if no row
    was a pair. `sink` gets each bad row: see `BadRows`. `labels` are columns of the file that pairs carry as text.
    """

    def __init__(
        self,
        path: Inputs | Rows,
        max_bad_rows: int | str = 0,
        sink: Callable[[bytes], object] | None = None,
        options: ReadOptions | None = None,
        *,
        labels: Sequence[str] = (),
    ) -> None:
        self.path = input_of(path)
        self.bad_rows = BadRows(self.path, max_bad_rows, sink)
        self.stats = PairStats()
        self._options = options or ReadOptions()
        self._labels = tuple(labels)
        self._columns = Columns(self.path, self._options, self._labels)
        self._files = input_files(self.path)
        self._sources = {file.path: path_text(Path(file.source)) for file in self._files}
        self._default_src = next(iter(self._sources.values()), "memory")
        needed = self._columns.needed(name for each in formats() for name in each.columns)
        self._pairs = self._read(read_rows(self.path, self._options.max_line_bytes, needed))

    def __repr__(self) -> str:
        return f"PairReader({input_text(self.path)}, {self.stats.pairs:,} pairs so far)"

    def __next__(self) -> Pair:
        return next(self._pairs)

    def _read(self, rows: Iterator[Row]) -> Iterator[Pair]:
        sniffed = sniff(rows, self.path, self._columns)
        check_shards(self._files, sniffed.format, self._options)
        self.stats.format = sniffed.format.name
        self.stats.inside_text = notes_of(sniffed.taken, sniffed.left, sniffed.rows)
        repeats = Repeats()
        for row in chained(sniffed.head, rows):
            try:
                pair = self._pair(row, sniffed)
            except BadRow as bad:
                self.bad_rows.add(row, bad.reason)
                continue
            if pair is None:
                continue
            repeats.add(pair)
            self.stats.pairs += 1
            self.stats.sources[pair.src] += 1
            yield pair
        self.stats.bad = self.bad_rows.total
        self.stats.unread = self._columns.unread()
        self.stats.kept.update(repeats.counts())
        self.bad_rows.check(self.stats.pairs)
        if not self.stats.pairs:
            out = f"all {self.stats.bad:,} rows are bad" if self.stats.bad else "all rows were left out"
            raise InputError(f"{input_text(self.path)} holds no usable pair: {out}.")

    def _pair(self, row: Row, sniffed: Sniffed) -> Pair | None:
        """One row as a pair; None if an option leaves it out."""
        if row.value is None:
            raise BadRow(row.fault or "not a JSON object")
        self._columns.refuse_skipped(row)
        value = self._columns.prepare(row.value)
        if row.all_text:
            value = self._columns.with_numbers(value)
        for way in sniffed.ways:
            if way.shows(value):
                if way.check:
                    way.check(value)
                value = way.rewrite(value)
            else:
                self.stats.kept[f"without {way.name}"] += 1
        plan = self._columns.plan(value)
        preference = _preference(value, sniffed.format)
        refuse_media(value, plan)
        context = with_system(value, plan.system, preference.history) if plan.system else preference.history
        pair = self._assembled(value, row, preference, context)
        if self._labels:
            pair = replace(pair, labels=labels_of(row.value, self._labels, pair.src))
        oddities = _oddities(pair)
        if plan.scores and not self._scores_allow(value, plan, pair.margin, oddities):
            return None
        self.stats.kept.update(oddities)
        return _turned(pair) if SWAPPED in oddities else pair

    def _assembled(self, value: dict[str, Any], row: Row, preference: Preference, context: list[Message]) -> Pair:
        messages = trim(context)
        chosen, rejected = conversation_text(preference.chosen), conversation_text(preference.rejected)
        src = value.get("src") or value.get("source")
        if isinstance(src, list | dict) and nests_too_deep(src):
            raise BadRow(f"column src holds {TOO_DEEP}")
        src = src or (self._sources[row.file] if row.file else self._default_src)
        pair_id = row_id(value)
        pair = Pair(
            id=pair_id or "",
            prefix=Prefix(unit_id(messages, self._options.density_unit), messages),
            chosen=chosen,
            rejected=rejected,
            src=str(src),
            row=row.number,
            context=context,
            chosen_messages=preference.chosen,
            rejected_messages=preference.rejected,
            tools=tools_of(value),
            margin=margin_of(value),
        )
        return pair if pair_id else replace(pair, id=content_id(pair_parts(pair)))

    def _scores_allow(self, value: dict[str, Any], plan: Plan, margin: float | None, oddities: list[str]) -> bool:
        """Whether a row stays, by its scores; what they say goes to its oddities. Raises BadRow for a conflict."""
        against, agreed, odd = opposed(value, plan.scores)
        oddities += odd
        contradicts = margin_contradicts(margin, bool(against), agreed)
        if not against:
            oddities += [MARGIN_AGAINST] if contradicts else []
            return True
        choice = self._options.score_conflict
        what = f"scores against the order: {', '.join(against)}"
        if choice == "error":
            raise BadRow(f"{what} (--score_conflict keep, swap or drop)")
        if choice == "swap" and agreed:
            raise BadRow("scores that contradict each other, so that none says which one to prefer")
        if choice == "drop":
            self.stats.dropped[what] += 1
            return False
        if choice == "swap" and contradicts:
            raise BadRow(f"{MARGIN_AGAINST}, so that none says which one to prefer (--drop_columns margin)")
        oddities += [what, SWAPPED] if choice == "swap" else [what]
        oddities += [MARGIN_AGAINST] if contradicts else []
        return True


SWAPPED = "chosen and rejected swapped, as their scores say"
MARGIN_AGAINST = "margin has the other sign than the scores"


@explained_keywords
def read_pairs(path: Inputs | Rows, max_bad_rows: int | str = 0, options: ReadOptions | None = None) -> PairReader:
    """Read the pairs of a file (JSON lines, JSON, CSV, parquet, Arrow), a folder of shards or a glob, or of several.

    Or those of rows in memory: a DataFrame of pandas or polars, a `datasets.Dataset`, a pyarrow.Table, dicts in a list
    or from a generator, a dict of columns. They are read as the same rows in JSON lines are, None, NaN, NaT and NA as
    null; a pair without a source has the src "memory". Rows count from 1, whatever the index is.

    `max_bad_rows` is how many unusable rows to step over, or "all"; one more raises BadRowsError at the end. `options`
    name columns, and say what to do with scores that contradict the order.
    The reader's `stats` and `bad_rows` say what was met.

    Raises InputError for what cannot be rows, such as a DatasetDict; and with its pairs what `PairReader` raises.

    >>> len(list(kat.read_pairs("pairs.jsonl")))
    300
    >>> rows = [{"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "src": "sums"}]
    >>> [pair.src for pair in kat.read_pairs(rows)]
    ['sums']
    """
    return PairReader(path, max_bad_rows, options=options)


def _preference(value: dict[str, Any], file_format: Format) -> Preference:
    # The file's own format is asked first: nearly every row is of it. One of no format is taken apart all the
    # same, for then its fault gets a name. The two reasons stand in files of rejected rows: their words stay.
    if not file_format.matches(value) and format_of(value):
        raise BadRow(f"of another shape than the file's ({file_format.name})")
    try:
        return parse_row(value, file_format)
    except (KeyError, TypeError, AttributeError):
        raise BadRow(f"not of the file's shape ({file_format.name})") from None


def _turned(pair: Pair) -> Pair:
    """A pair with its preference the other way round. A content's id is of the row as it stood: it stays."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_messages=pair.rejected_messages,
        rejected_messages=pair.chosen_messages,
        margin=None if pair.margin is None else 0.0 - pair.margin,  # it is a difference, and the difference turns
    )


def _oddities(pair: Pair) -> list[str]:
    oddities = []
    messages = pair.prefix.messages
    if messages[0]["role"] != "user":
        oddities.append(f"starts with {messages[0]['role']}")
    if len(messages) < len(pair.context):  # the names are keys of files of statistics
        spoken = all(m["role"] == "assistant" for m in pair.context[len(messages) :])
        who = "assistant turns" if spoken else "turns of assistant and tools"
        oddities.append(f"{who} after the last user message, left out of the prefix")
    if "\0" in pair.chosen or "\0" in pair.rejected or any("\0" in (m["content"] or "") for m in pair.context):
        oddities.append("holds NUL")
    return oddities
