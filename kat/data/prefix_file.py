"""Prefixes files: one prefix a line, read by id without holding the text of all in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from kat.data.prompts import prompt_of
from kat.data.rows import BOM, BadRow, parse_line
from kat.errors import InputError, MismatchError
from kat.records import Prefix


class PrefixFile(Mapping[str, Prefix]):
    """A prefixes file as a read-only mapping {id: Prefix}. Holds ids and offsets; reads a prefix when it is asked for.

    Raises InputError for a file that cannot be opened or read by offset, or a line that is no prefix; MismatchError
    for an id that stands twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix in (".gz", ".zst", ".parquet"):
            raise InputError(f"{self.path} cannot be read by offset; expected an uncompressed .jsonl file.")
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path} cannot be opened: {error.strerror}.") from error
        self._offsets: dict[str, int] = {}
        self._index()

    def _index(self) -> None:
        offset = 0
        for number, line in enumerate(self._file, 1):
            if line.removeprefix(BOM).strip():
                prefix_id = self._parse(line, f"line {number}").id
                if prefix_id in self._offsets:
                    raise MismatchError(f"{self.path}:{number} repeats the id {prefix_id}.")
                self._offsets[prefix_id] = offset
            offset += len(line)

    def _parse(self, line: bytes, where: str) -> Prefix:
        row = parse_line(0, line.removeprefix(BOM))
        try:
            if row is None or row.value is None:
                raise BadRow("a blank line" if row is None else row.fault or "not a JSON object")
            return prompt_of(row.value)
        except BadRow as bad:
            raise InputError(f"{self.path}, {where}, is no prefix: {bad.reason}.") from None

    def __getitem__(self, prefix_id: str) -> Prefix:
        offset = self._offsets[prefix_id]
        self._file.seek(offset)
        return self._parse(self._file.readline(), f"byte {offset}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Close the file; prefixes cannot be read any more."""
        self._file.close()

    def __enter__(self) -> PrefixFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_prefixes(path: str | Path) -> PrefixFile:
    """Open a prefixes file as a mapping {id: Prefix} that reads one prefix at a time from disk.

    Raises what `PrefixFile` raises. Close it, or use it in a `with` statement.

    >>> prefixes = kat.open_prefixes("run/prefixes_all.jsonl")
    >>> first = next(iter(prefixes))
    >>> prefixes[first].id == first == kat.opening_id(prefixes[first].opening)
    True
    """
    return PrefixFile(path)


def prefix_line(prefix: Prefix) -> bytes:
    """Return a prefix as a line of a prefixes file (`kat.data.prefix_file`)."""
    return orjson.dumps({"id": prefix.id, "prefix": {"messages": prefix.messages}}) + b"\n"
