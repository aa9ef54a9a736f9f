"""A row's columns beside those of its format: renamed, dropped, carried with the prompt, or left behind and said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kat.config import ReadOptions, recorded_as
from kat.data.conversations import is_message
from kat.data.media import MEDIA, holds_media
from kat.data.needed import CONTEXT_PARTS as CONTEXT_PARTS
from kat.data.needed import SYSTEM as SYSTEM
from kat.data.nesting import TOO_DEEP, from_json, nests_too_deep
from kat.data.readers.tables import Needed
from kat.data.repeated_keys import refuse_repeated_key
from kat.data.rows import BadRow, Row
from kat.data.scores import number_in_text
from kat.errors import InputError, OptionError
from kat.inputs import Inputs, input_text
from kat.records import Message, canonical_json
from kat.terminal import escaped, shell_word

SOURCE = "src"
"""The column that every pair has: what the file says, or the file's own name."""
_COMMON = frozenset({"id", "src", "source", "tools", "margin", *SYSTEM})
_SCORE = re.compile(r"(?:^|[-_ ])(?:score|reward|rating)s?(?:$|[-_ ])", re.IGNORECASE)
_CHOSEN = re.compile(r"(?<![a-z])chosen(?![a-z])", re.IGNORECASE)
_REJECTED = re.compile(r"(?<![a-z])rejected(?![a-z])", re.IGNORECASE)
_REMEMBERED = 1_000


def recorded_reading(options: ReadOptions) -> dict[str, Any]:
    """Return what a manifest holds of how rows were read: what was set, so that older manifests still match.

    The opening is the unit unless another is named, so that naming it changes nothing.
    """
    chosen = {f.name: value for f in fields(options) if (value := getattr(options, f.name)) != f.default}
    return {name: value for name, value in chosen.items() if (name, value) != ("unit", "opening")}


def reading_flags(options: ReadOptions) -> str:
    """Return what to type after a command so that it reads rows in the same way; each option has a space before it."""
    return "".join(f" --{name} {shell_word(str(value))}" for name, value in recorded_reading(options).items())


def reading_of(manifest: Mapping[str, Any]) -> ReadOptions:
    """Return how the rows were read of which a manifest tells."""
    return recorded_as(ReadOptions, manifest.get("options", {}), manifest.get("stage", "an output"))


def line_limit_of(manifest: Mapping[str, Any]) -> int:
    """Return the longest line, in bytes, with which the rows were read of which a manifest tells."""
    return reading_of(manifest).max_line_bytes


def source_columns(options: ReadOptions) -> dict[str, str]:
    """Return the file's column for each name that kat knows. Raises OptionError for a list of another form."""
    sources: dict[str, str] = {}
    for item in options.columns.split(",") if options.columns else ():
        name, equals, source = (part.strip() for part in item.partition("="))
        if not name or not equals or not source or name in sources:
            raise OptionError(f"columns has {item!r}; expected NAME=COLUMN,… with each NAME once.")
        sources[name] = source
    return sources


def dropped_columns(options: ReadOptions) -> tuple[str, ...]:
    """Return the columns to leave behind. Raises OptionError for an empty name or one that is read all the same."""
    names = tuple(name.strip() for name in options.drop_columns.split(",")) if options.drop_columns else ()
    for name in names:
        if not name or name in source_columns(options).values():
            raise OptionError(f"drop_columns has {name!r}; expected columns that --columns does not name: a,b.")
    return names


@dataclass(eq=False)
class Plan:
    """What the rows of one set of keys hold besides their format's columns; `rows` counts those met.

    `scores` are pairs of columns, chosen and rejected, the main one first; `media` those that cannot be carried.
    """

    system: tuple[str, ...]
    media: tuple[str, ...]
    scores: tuple[tuple[str, str], ...]
    unread: tuple[str, ...]
    rows: int = 0


class Columns:
    """Prepares the rows of one file, and knows of each what its columns are for."""

    def __init__(self, path: Inputs, options: ReadOptions, labels: Sequence[str] = ()) -> None:
        self._path = path
        self._labels = tuple(name for name in labels if name != SOURCE)
        self._source_of, self._dropped = source_columns(options), frozenset(dropped_columns(options))
        self._dropped_media = frozenset(MEDIA[name] for name in self._dropped if name in MEDIA)
        self._binary: tuple[str, ...] = ()
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._numeric: dict[tuple[str, ...], tuple[str, ...]] = {}  # one entry a header
        self._format_columns: frozenset[str] = frozenset()
        self._unread: Counter[str] = Counter()

    def look_at(self, rows: list[Row]) -> None:
        """Look at the first rows. Raises InputError for a column to be renamed or dropped that none of them has."""
        values = [row.value for row in rows if row.value is not None]
        known = {name: None for row in rows for name in (*(row.value or {}), *row.skipped)}
        named = [*self._source_of.values(), *(name for name in self._dropped if name not in MEDIA)]
        missing = [name for name in (*named, *self._labels) if name not in known]
        if rows and missing:
            names = ", ".join(map(escaped, known))
            raise InputError(
                f"{input_text(self._path)} has no column {', '.join(sorted(missing))}; its columns are {names}."
            )
        self._binary = tuple(name for name in known if any(isinstance(value.get(name), bytes) for value in values))

    def refuse_skipped(self, row: Row) -> None:
        """Count the columns of bytes that were not read. Raises BadRow for one that belongs to the prompt."""
        for name in row.skipped:
            if name in self._dropped:
                continue
            if name in MEDIA or name in row.media:
                raise BadRow(_cannot_be_carried(name))
            self._unread[name] += 1

    def needed(self, of_formats: Iterable[str]) -> Needed:
        """Return which columns of a table are to be read, those of all formats among them: see `Needed`."""
        known = {*_COMMON, *CONTEXT_PARTS, *MEDIA, *self._labels, *self._source_of.values(), *of_formats}

        def use(name: str) -> bool | None:
            if name in self._dropped:
                return None
            return name in known or bool(_SCORE.search(_CHOSEN.sub("", _REJECTED.sub("", name))))

        return use

    def use_format(self, columns: Iterable[str]) -> None:
        """Say which columns the file's format reads."""
        self._format_columns = frozenset(columns)

    def prepare(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return a row under the names that kat knows, without what is dropped. Raises BadRow for bytes of no text."""
        for name in self._binary:
            if isinstance(value.get(name), bytes):
                value = value | {name: _decoded(value[name])}
        if self._source_of:
            value = self._renamed(value)
        if self._dropped:
            value = {k: v for k, v in value.items() if k not in self._dropped}
        if self._dropped_media:
            value = {k: v if nests_too_deep(v) else self._without_parts(v) for k, v in value.items()}
        return value

    def with_numbers(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return a prepared row of texts with its margin and scores as numbers. Raises BadRow for one that is none."""
        keys = tuple(value)
        if keys not in self._numeric:
            self._numeric[keys] = ("margin", *(name for pair in score_columns(keys) for name in pair))
        texts = {name: value[name] for name in self._numeric[keys] if isinstance(value.get(name), str)}
        return value | {name: number_in_text(name, text) for name, text in texts.items()}

    def plan(self, value: dict[str, Any]) -> Plan:
        """Return what a prepared row's columns are for, and count it."""
        keys = tuple(value)
        plan = self._plans.get(keys)
        if plan is None:
            if len(self._plans) == _REMEMBERED:
                self._forget()
            plan = self._plans[keys] = self._planned(keys)
        plan.rows += 1
        return plan

    def unread(self) -> dict[str, int]:
        """Return the rows that hold each column that was left behind, in the order of first appearance."""
        self._forget()
        return dict(self._unread)

    def _forget(self) -> None:
        for plan in self._plans.values():
            for name in plan.unread:
                self._unread[name] += plan.rows
        self._plans.clear()

    def _planned(self, keys: tuple[str, ...]) -> Plan:
        scores = score_columns(keys)
        read = {*_COMMON, *self._labels, *self._format_columns, *(name for pair in scores for name in pair)}
        return Plan(
            system=tuple(k for k in SYSTEM if k in keys),
            media=tuple(k for k in keys if k in MEDIA or (k in CONTEXT_PARTS and k not in read)),
            scores=scores,
            unread=tuple(k for k in keys if k not in read and k not in MEDIA and k not in CONTEXT_PARTS),
        )

    def _renamed(self, value: dict[str, Any]) -> dict[str, Any]:
        named = {name: value[source] for name, source in self._source_of.items() if source in value}
        taken = {source for source in self._source_of.values() if source not in self._source_of}
        # A column whose name another one takes is left behind under a name that says so.
        others = {(f"{k} (replaced)" if k in named else k): v for k, v in value.items() if k not in taken}
        for name, source in self._source_of.items():
            if value.get(name) is None or name in self._source_of.values() or name == source:
                others.pop(f"{name} (replaced)", None)
        return others | named

    def _without_parts(self, value: Any) -> Any:
        """A conversation without what is of a dropped kind: parts of contents, keys of messages and beside them."""
        if is_message(value) or (isinstance(value, dict) and isinstance(value.get("messages"), list)):
            value = {k: v for k, v in value.items() if MEDIA.get(k) not in self._dropped_media}
        if isinstance(value, dict):
            return {
                k: self._kept_parts(v) if k in ("content", "value") else self._without_parts(v)
                for k, v in value.items()
            }
        return [self._without_parts(each) for each in value] if isinstance(value, list) else value

    def _kept_parts(self, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        kinds = [MEDIA.get(str(p.get("type"))) if isinstance(p, dict) else None for p in content]
        return [p for p, kind in zip(content, kinds, strict=True) if kind not in self._dropped_media]


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRow("invalid UTF-8") from None


def score_columns(keys: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of columns that score chosen and rejected, by their names: score_chosen/score_rejected first.

    One name holds "chosen" and one of score, reward, rating; the other holds "rejected" in its place.
    """
    names, pairs = set(keys), []
    for key in keys:
        if not _SCORE.search(_CHOSEN.sub("", key)) or not _CHOSEN.search(key):
            continue
        for word in ("rejected", "Rejected", "REJECTED"):
            if (other := _CHOSEN.sub(word, key)) in names:
                pairs.append((key, other))
                break
    return tuple(sorted(pairs, key=lambda pair: pair[0] != "score_chosen"))


def refuse_media(value: dict[str, Any], plan: Plan) -> None:
    """Raise BadRow for a row with pictures, sound or a part of the prompt in a column that cannot be carried.

    Also for pictures anywhere inside of a column that is not read.
    """
    for name in plan.media:
        if value[name] not in (None, [], "", {}):
            raise BadRow(_cannot_be_carried(name))
    for name in plan.unread:
        if value[name] and holds_media(value[name]):
            raise BadRow(_cannot_be_carried(name))


def _cannot_be_carried(name: str) -> str:
    return f"column {name} belongs to the prompt and cannot be carried (--drop_columns {name})"


def with_system(value: dict[str, Any], names: Iterable[str], history: list[Message]) -> list[Message]:
    """Return a conversation with the system message that a column holds as its first; the same is not said twice.

    Raises BadRow for a column that is no text, or that differs from the conversation's own system message.
    """
    for name in names:
        text = value.get(name)
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            raise BadRow(f"{name} is not text")
        own = history[0]["content"] if history and history[0]["role"] == "system" else None
        if own is None:
            history = [{"role": "system", "content": text}, *history]
        elif own != text:
            raise BadRow(f"column {name} and the conversation's own system message differ")
    return history


def tools_of(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the tools that a row's conversation may call, from a list or its JSON. Raises BadRow for anything else."""
    tools = value.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            text, tools = tools, from_json(tools)
        except ValueError:
            raise BadRow("tools is no list of tools, nor its JSON") from None
        refuse_repeated_key(text.encode(), tools, "tools")
    if tools is None or tools == [] or (isinstance(tools, str) and not tools.strip()):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools is no list of tools, nor its JSON")
    if nests_too_deep(tools):
        raise BadRow(f"column tools holds {TOO_DEEP}")
    return tools


def labels_of(row: dict[str, Any], names: Iterable[str], src: str) -> dict[str, str]:
    """Return the columns of a row, under the file's own names, that say of what kind a pair is; "" for one without.

    Numbers and truth values are told as JSON has them. Raises BadRow for a list or an object.
    """
    labels = {}
    for name in names:
        value = src if name == SOURCE else row.get(name)
        if isinstance(value, bytes):
            value = _decoded(value)
        if isinstance(value, list | dict):
            raise BadRow(f"column {name} holds no text, number or truth value")
        labels[name] = "" if value is None else value if isinstance(value, str) else canonical_json(value)
    return labels


def margin_of(value: dict[str, Any]) -> float | None:
    """Return how much better the chosen completion is, None if the row does not say. Raises BadRow for no number."""
    margin = value.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not abs(margin) < 1e300:
        raise BadRow("margin is no finite number")
    return float(margin)
