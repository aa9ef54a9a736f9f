"""Conversations inside the text of a prompt, recognised as those of pairs are (`kat.data.inside_text`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from kat.config import MAX_LINE_BYTES
from kat.data.conversations import HH_TURN, parse_hh
from kat.data.inside_text import WAYS, Inside, notes_of, recognise
from kat.data.needed import needed_of_prompts
from kat.data.rows import read_rows
from kat.data.sniff import SNIFFED
from kat.errors import InputError
from kat.inputs import Inputs

_COLUMNS = ("prompt", "prefix")


def _with_blank_line(way: Inside) -> Inside:
    """HH text with its first blank line too, which is a format of its own among pairs."""

    def shows(value: dict[str, Any]) -> bool:
        prompt = value.get("prompt")
        return way.shows(value) or (isinstance(prompt, str) and bool(HH_TURN.match(prompt)))

    def rewrite(value: dict[str, Any]) -> dict[str, Any]:
        return way.rewrite(value) if way.shows(value) else value | {"prompt": parse_hh(value["prompt"], "prompt")}

    return replace(way, shows=shows, rewrite=rewrite)


_PROMPT_WAYS = {
    way.name: _with_blank_line(way) if way.name.startswith("HH text") else way
    for way in WAYS
    if "repeat the prompt" not in way.name
}


@dataclass(frozen=True)
class InsidePrompts:
    """The names of the ways that nearly all of the first prompts show, and in words what was met."""

    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look_inside(path: Inputs, max_line_bytes: int = MAX_LINE_BYTES) -> InsidePrompts:
    """Look at the first rows of prompts for conversations inside their text."""
    parseable = (row.value for row in read_rows(path, max_line_bytes, needed_of_prompts) if row.value is not None)
    values = [_columns(value) for value in islice(parseable, SNIFFED)]
    ways, _, taken, left = recognise(values, tuple(_PROMPT_WAYS.values()))
    return InsidePrompts(tuple(way.name for way in ways), tuple(notes_of(taken, left, len(values))))


def inside_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ways by which the prompts were read that a manifest of vectors or weights tells of."""
    return tuple((manifest.get("options") or {}).get("inside_text") or manifest.get("inside_text") or ())


def ways_named(names: Sequence[str]) -> list[Inside]:
    """Return ways by name. Raises InputError for one that this version does not have."""
    if unknown := [name for name in names if name not in _PROMPT_WAYS]:
        raise InputError(f"Prompts were read by {', '.join(unknown)}, which this version of kat does not have.")
    return [_PROMPT_WAYS[name] for name in names]


def with_messages(value: dict[str, Any], ways: Iterable[Inside]) -> tuple[dict[str, Any], list[str]]:
    """Return a row whose prompt is messages where its text shows one of the ways, and the ways that it lacks."""
    columns, lacking = _columns(value), []
    for way in ways:
        if way.shows(columns):
            columns = way.rewrite(columns)
        else:
            lacking.append(way.name)
    if isinstance(prompt := columns.get("prompt"), dict) and isinstance(prompt.get("messages"), list):
        columns["prompt"] = prompt["messages"]
    if isinstance(columns.get("prefix"), list):
        columns["prefix"] = {"messages": columns["prefix"]}
    return value | columns, lacking


def _columns(value: dict[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in _COLUMNS if name in value}
