"""Openings, the unit of density: their ids, the one prefix kept for each, and prefixes files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from kat.data.rows import BOM, BadRow, parse_line
from kat.errors import InputError, MismatchError
from kat.records import Pair, Prefix


@lru_cache(maxsize=16_384)  # the pairs of an opening come by again and again
def opening_id(opening: str) -> str:
    """First 16 hex digits of the md5 of the opening, white space collapsed and stripped, UTF-8."""
    collapsed = " ".join(opening.split())
    return hashlib.md5(collapsed.encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


@dataclass(frozen=True)
class OpeningStats:
    """`several` counts the openings that were met with more than one prefix."""

    pairs: int
    openings: int
    several: int

    @property
    def removed(self) -> float:
        """Share of pairs that brought no new opening."""
        return 1 - self.openings / self.pairs if self.pairs else 0.0


def unique_prefixes(pairs: Iterable[Pair]) -> list[Prefix]:
    """One prefix for each distinct opening, in order of first appearance.

    Which one is kept does not depend on the order of the pairs: the one with fewest messages, then fewest UTF-8
    bytes of content, then smallest bytes of content.
    """
    return collect_openings(pairs)[0]


def collect_openings(pairs: Iterable[Pair]) -> tuple[list[Prefix], OpeningStats]:
    """`unique_prefixes`, with what was met on the way."""
    best: dict[str, Prefix] = {}
    several: set[str] = set()
    n = 0
    for pair in pairs:
        n += 1
        new = pair.prefix
        old = best.setdefault(new.id, new)
        if old is new or old.messages == new.messages:
            continue
        several.add(new.id)
        if _preference(new) < _preference(old):
            best[new.id] = new
    return list(best.values()), OpeningStats(n, len(best), len(several))


def _preference(prefix: Prefix) -> tuple:
    contents = [m["content"].encode("utf-8") for m in prefix.messages]
    # Boundaries and roles decide between prefixes whose joined content is the same.
    roles = [m["role"] for m in prefix.messages]
    return len(contents), sum(map(len, contents)), b"".join(contents), contents, roles


def prefix_line(prefix: Prefix) -> bytes:
    """A line of a prefixes file."""
    return orjson.dumps({"id": prefix.id, "prefix": {"messages": prefix.messages}}) + b"\n"


class PrefixFile(Mapping[str, Prefix]):
    """A prefixes file as a read-only mapping by id. Holds the ids and their offsets; reads a prefix when asked."""

    def __init__(self, path: str | Path):
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
        from kat.data.prompts import item_of

        row = parse_line(0, line.removeprefix(BOM))
        try:
            if row is None or row.value is None:
                raise BadRow(row.fault if row else "a blank line")
            return item_of(row.value)
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
        self._file.close()

    def __enter__(self) -> PrefixFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_prefixes(path: str | Path) -> PrefixFile:
    """A prefixes file as a mapping {id: Prefix} that reads one prefix at a time from disk."""
    return PrefixFile(path)
