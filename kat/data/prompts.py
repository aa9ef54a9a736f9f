"""Rows to embed: JSON lines with an id and a `prefix` (a conversation) or a `prompt` (text, or a list of messages)."""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kat.arrays import compare_ids
from kat.config import MAX_LINE_BYTES
from kat.data.columns import SYSTEM, line_limit_of, with_system
from kat.data.conversations import is_message, messages_of, opening_of, prefix_messages, row_id, trim
from kat.data.inside_text import Inside
from kat.data.media import MEDIA, holds_media
from kat.data.needed import OF_PROMPTS, needed_of_prompts
from kat.data.openings import opening_id
from kat.data.prompt_texts import inside_of, ways_named, with_messages
from kat.data.rows import BadRow, BadRows, Row, read_rows
from kat.errors import DuplicateIdError, InputError, MismatchError
from kat.inputs import Inputs, input_hash, input_text, is_there
from kat.records import Prefix
from kat.run_folder import IDS, named_inputs


class PromptFile:
    """The prompts of an input, checked once and then streamed in its order, as often as asked; their ids are unique.

    `inside` names the ways by which conversations inside a text are read (`kat.data.prompt_texts`); `without` counts
    the prompts that do not show them.

    Holds 34 bytes a row, however long the texts. `bad` counts the rows left out, `made_ids` the prompts whose id was
    computed.

    Raises DuplicateIdError if one id stands for two openings, BadRowsError for more bad rows than allowed (a second
    row of one id and opening is one), and InputError if no prompt is left.
    """

    def __init__(
        self,
        path: Inputs,
        max_bad_rows: int | str = 0,
        sink: Callable[[bytes], object] | None = None,
        inside: Sequence[str] = (),
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self.path = Path(path) if isinstance(path, str) else path
        self._ways, self._most = ways_named(inside), max_line_bytes
        bad = BadRows(self.path, max_bad_rows, sink)
        self.without: Counter[str] = Counter()
        rows, without_id = _scan(self._read(), bad, self._ways, self.without)
        repeats = _repeats(self._read, self.path, rows)
        for row in self._read() if repeats else ():
            if row.number in repeats:
                bad.add(row, "repeats the id and opening of an earlier row")
        bad.check(len(rows))
        self._numbers = np.asarray([n for n in rows["number"].tolist() if n not in repeats], np.int64)
        if not len(self):
            raise InputError(
                f'{input_text(self.path)} holds no rows; expected lines of {{"id", "prefix"}} or {{"id", "prompt"}}.'
            )
        self.bad, self.made_ids = bad.total, len(set(without_id) - repeats)

    def __len__(self) -> int:
        return len(self._numbers)

    def _read(self) -> Iterator[Row]:
        return read_rows(self.path, self._most, needed_of_prompts)

    def __iter__(self) -> Iterator[Prefix]:
        numbers = iter(self._numbers.tolist())
        number = next(numbers, None)
        for row in self._read():
            if row.number == number:
                try:
                    yield _prompt(row.value, self._ways)[0]
                except BadRow:
                    break
                number = next(numbers, None)
        if number is not None:
            raise InputError(f"{self._place(number)} changed while the file was read. Start again.")

    def ids(self) -> Iterator[str]:
        """Yield the prompts' ids, in order."""
        return (prompt.id for prompt in self)

    def _place(self, number: int) -> str:
        return next((row.place(self.path) for row in self._read() if row.number == number), str(self.path))


_OF_TEXT = OF_PROMPTS
"""Columns whose pictures, if they hold any, are found where they are read, and tools that may speak of them."""
_ROW = np.dtype([("id", "S16"), ("opening", "S8"), ("number", np.int64)])


def _scan(
    lines: Iterator[Row], bad: BadRows, ways: Sequence[Inside], without: Counter[str]
) -> tuple[np.ndarray, array[int]]:
    """Good rows as hashes of their ids and openings, and the numbers of those whose id was computed."""
    ids, openings, numbers, without_id = bytearray(), bytearray(), array("q"), array("q")
    for row in lines:
        try:
            if row.value is None:
                raise BadRow(row.fault or "not a JSON object")
            prompt, lacking = _prompt(row.value, ways)
        except BadRow as fault:
            bad.add(row, fault.reason)
            continue
        without.update(lacking)
        ids += blake2b(prompt.id.encode("utf-8"), digest_size=16).digest()
        openings += bytes.fromhex(opening_id(prompt.opening))
        numbers.append(row.number)
        if row.value.get("id") is None:
            without_id.append(row.number)
    rows = np.empty(len(numbers), _ROW)
    rows["id"], rows["opening"] = np.frombuffer(ids, "S16"), np.frombuffer(openings, "S8")
    rows["number"] = np.frombuffer(numbers, np.int64)
    return rows, without_id


def _repeats(read: Callable[[], Iterator[Row]], path: Inputs, rows: np.ndarray) -> set[int]:
    """The numbers of the rows that repeat the id of an earlier one. Raises DuplicateIdError for another opening."""
    order = np.argsort(rows["id"], kind="stable")
    ids, openings = rows["id"][order], rows["opening"][order]
    repeats = np.flatnonzero(ids[1:] == ids[:-1]) + 1  # the sort is stable: each stands behind the row it repeats
    if not len(repeats):
        return set()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    first = starts[np.searchsorted(starts, repeats, side="right") - 1]
    differs = openings[repeats] != openings[first]
    if differs.any():
        numbers = rows["number"][order]
        second, first_number = min(zip(numbers[repeats[differs]], numbers[first[differs]], strict=True))
        _raise_two_openings(read(), path, int(first_number), int(second))
    return set(rows["number"][order[repeats]].tolist())


def _raise_two_openings(lines: Iterator[Row], path: Inputs, first: int, second: int) -> NoReturn:
    one, other = (row for row in lines if row.number in (first, second))
    shared = row_id(one.value or {})  # an id that was computed is that of one opening
    where = f"{path}: lines {first} and {second}" if one.file is None else f"{one.place(path)} and {other.place(path)}"
    raise DuplicateIdError(
        f"{where} share the id {shared} but not the opening. "
        "Give one of them another id, or leave ids out to have them computed."
    )


def good_prompts(path: Inputs, inside: Sequence[str] = (), max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Prefix]:
    """Yield the prefixes of an input's good rows, whatever their ids; bad ones are passed over."""
    ways = ways_named(inside)
    for row in read_rows(path, max_line_bytes, needed_of_prompts):
        if row.value is not None:
            with contextlib.suppress(BadRow):
                yield _prompt(row.value, ways)[0]


def _prompt(value: Any, ways: Sequence[Inside]) -> tuple[Prefix, list[str]]:
    """One row's prefix, and the ways that its text does not show. Raises BadRow."""
    value, lacking = with_messages(value, ways) if ways and isinstance(value, dict) else (value, [])
    return prompt_of(value), lacking


def prompt_of(value: Any) -> Prefix:
    """Return one row's prefix; without an id it gets its opening's. Raises BadRow."""
    if not isinstance(value, dict):
        raise BadRow("not a JSON object")
    for name, beside in value.items():
        if beside and name not in _OF_TEXT and (name in MEDIA or holds_media(beside)):
            raise BadRow(f"column {name} belongs to the prompt and cannot be embedded: leave it out of the file")
    if isinstance(value.get("prefix"), dict):
        messages = prefix_messages(value["prefix"])
    elif isinstance(prompt := value.get("prompt"), str):
        messages = with_system(value, SYSTEM, [{"role": "user", "content": prompt}])
    elif isinstance(prompt, list) or is_message(prompt):
        # What follows the last user message trains and is not embedded, as in the prefixes of `kat prefixes`.
        messages = trim(with_system(value, SYSTEM, messages_of(prompt, "prompt")))
    else:
        raise BadRow("neither a prefix (a conversation) nor a prompt (text or a list of messages)")
    opening = opening_of(messages)
    return Prefix(row_id(value) or opening_id(opening), messages)


def check_prompts(folder: Path, ids: list[str], manifest: Mapping[str, Any], prompts: Inputs | None) -> list[str]:
    """Check that a folder's ids stand in the order of the file that was embedded; return what was proved, in lines.

    `prompts` is that file, by default the one that the manifest names. Raises MismatchError.
    """
    named = manifest.get("items_path")
    path = prompts or (named_inputs(folder, named) if named else None)
    if path is None:
        return ["  no file of prompts is named here; the order of the ids was not compared (name it: --prompts_path)"]
    if not is_there(path):
        return [
            f"  {input_text(path)}, which was embedded, is not there now; the order of the ids was not compared (if it "
            "moved, name it: --prompts_path FILE)"
        ]
    left_out = manifest.get("left_out") or {}
    most = line_limit_of(manifest)
    file = PromptFile(path, "all", inside=inside_of(manifest), max_line_bytes=most)
    theirs = (prompt_id for prompt_id in file.ids() if prompt_id not in left_out)
    compare_ids(ids, theirs, str(folder / IDS if folder.is_dir() else folder), input_text(path))
    digest = (manifest.get("inputs") or {}).get("items") or manifest.get("items_sha256")
    if digest and input_hash(path) != digest:
        raise MismatchError(
            f"{input_text(path)} has the same ids but is not the file that {folder} was made from: its text changed."
        )
    return [f"  ids in the order of {input_text(path)}"]
