"""Columns of text that hold no Python object a row: as Arrow holds strings, as codes of fewer texts, or as numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 65_536
"""Rows that become Python strings at a time, and rows of a chunk: whole chunks make up a row group of a file."""
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)

_DIGIT = np.full(256, 255, np.uint8)
_DIGIT[list(b"0123456789abcdef")] = range(16)


class TextColumn(Sequence[str]):
    """N texts. Iterating makes Python strings of BLOCK rows at a time; `objects` makes an array of all of them."""

    @abstractmethod
    def chunks(self, start: int, stop: int) -> pa.ChunkedArray:
        """Return some rows as Arrow strings."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> TextColumn:
        """Return the texts of some rows [R]."""

    @abstractmethod
    def order(self) -> np.ndarray:
        """Return the rows [N] in the order of their texts, by code points; equal texts keep their order."""

    def coded(self) -> CodedTexts:
        """Return the same texts as codes of distinct ones, in order of first appearance."""
        return ArrowTexts(self.chunks(0, len(self))).coded()

    def objects(self) -> np.ndarray:
        """Return the texts as an array [N] of Python strings."""
        values = np.empty(len(self), object)
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            values[start:stop] = self.chunks(start, stop).to_pylist()
        return values

    def __getitem__(self, row: Any) -> Any:
        """Return the text of a row, or the texts of a slice."""
        if isinstance(row, slice):
            return self.take(np.arange(*row.indices(len(self))))
        row = range(len(self))[row]  # also from the end, and IndexError beyond
        return self.chunks(row, row + 1)[0].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.chunks(start, min(start + BLOCK, len(self))).to_pylist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.objects(), str if dtype is None else dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} texts)"


class ArrowTexts(TextColumn):
    """Texts in Arrow's memory: their UTF-8, and 4 bytes a row."""

    def __init__(self, texts: pa.ChunkedArray):
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def chunks(self, start: int, stop: int) -> pa.ChunkedArray:
        """Return some rows as Arrow strings; they share this column's memory."""
        import pyarrow as pa

        part = self._texts.slice(start, stop - start)
        if part.type == pa.string():
            return part
        return part.take(pa.array(np.arange(len(part)))).cast(pa.string())  # of a slice alone, not of all that it cuts

    def take(self, rows: np.ndarray) -> ArrowTexts:
        """Return the texts of some rows [R]."""
        import pyarrow as pa

        return ArrowTexts(self.joined()._texts.take(pa.array(rows)))

    def joined(self) -> ArrowTexts:
        """Return the same texts in one chunk, of which rows are taken quickly."""
        import pyarrow as pa

        if self._texts.num_chunks < 2:
            return self
        # 4 bytes a row, as strings have, count to 2 GB.
        return ArrowTexts(pa.chunked_array([self._texts.cast(pa.large_string()).combine_chunks()]))

    def coded(self) -> CodedTexts:
        """Return the same texts as codes of distinct ones, in order of first appearance."""
        import pyarrow as pa

        encoded = self._texts.dictionary_encode().unify_dictionaries()
        if not encoded.num_chunks:
            return CodedTexts(np.empty(0, np.int32), arrow_texts([]))
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
        return CodedTexts(codes, ArrowTexts(pa.chunked_array([encoded.chunk(0).dictionary])))

    def order(self) -> np.ndarray:
        """Return the rows [N] in the order of their texts, by code points; equal texts keep their order."""
        import pyarrow.compute as pc

        return np.asarray(pc.sort_indices(self._texts), np.int64)  # bytes of UTF-8 are in the order of code points


class CodedTexts(TextColumn):
    """Texts of which many rows have the same: `codes` [N] are rows of `names` [U]."""

    def __init__(self, codes: np.ndarray, names: TextColumn):
        self.codes = codes
        self.names = names.joined() if isinstance(names, ArrowTexts) else names

    def __len__(self) -> int:
        return len(self.codes)

    def chunks(self, start: int, stop: int) -> pa.ChunkedArray:
        """Return some rows as Arrow strings."""
        import pyarrow as pa

        blocks = (self.names.take(self.codes[at : min(at + BLOCK, stop)]) for at in range(start, stop, BLOCK))
        parts = [part for block in blocks for part in block.chunks(0, len(block)).chunks]
        return pa.chunked_array(parts, pa.string())

    def take(self, rows: np.ndarray) -> CodedTexts:
        """Return the texts of some rows [R]."""
        return CodedTexts(self.codes[rows], self.names)

    def order(self) -> np.ndarray:
        """Return the rows [N] in the order of their texts, by code points; equal texts keep their order."""
        return np.argsort(self.distinct()[1], kind="stable")

    def coded(self) -> CodedTexts:
        """Return this column."""
        return self

    def objects(self) -> np.ndarray:
        """Return the texts as an array [N] of Python strings, one for each of the names."""
        return self.names.objects()[self.codes]

    def equals(self, text: str) -> np.ndarray:
        """Return which rows [N] have this text."""
        return np.asarray([name == text for name in self.names], bool)[self.codes]

    def distinct(self) -> tuple[TextColumn, np.ndarray]:
        """Return the texts that stand in some row, in order, and the number [N] of each row's text among them."""
        present = np.flatnonzero(np.bincount(self.codes, minlength=len(self.names)))
        present = present[self.names.take(present).order()]
        place = np.zeros(len(self.names), np.int64)
        place[present] = np.arange(len(present))
        return self.names.take(present), place[self.codes]


class HexTexts(TextColumn):
    """Texts of 16 lower-case hex digits each, as opening ids are, as `numbers` [N] uint64."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def chunks(self, start: int, stop: int) -> pa.ChunkedArray:
        """Return some rows as Arrow strings."""
        import pyarrow as pa

        parts = [self._strings(at, min(at + BLOCK, stop)) for at in range(start, stop, BLOCK)]
        return pa.chunked_array(parts, pa.string())

    def __getitem__(self, row: Any) -> Any:
        """Return the text of a row, or the texts of a slice."""
        return HexTexts(self.numbers[row]) if isinstance(row, slice) else f"{int(self.numbers[row]):016x}"

    def _strings(self, start: int, stop: int) -> pa.Array:
        import pyarrow as pa

        digits = _HEX[self.numbers[start:stop].astype(">u8").view(np.uint8)]
        ends = np.arange(stop - start + 1, dtype=np.int32) * 16
        return pa.StringArray.from_buffers(stop - start, pa.py_buffer(ends), pa.py_buffer(digits))

    def take(self, rows: np.ndarray) -> HexTexts:
        """Return the texts of some rows [R]."""
        return HexTexts(self.numbers[rows])

    def order(self) -> np.ndarray:
        """Return the rows [N] in the order of their texts, which is that of the numbers."""
        return np.argsort(self.numbers, kind="stable")


class TextBuilder:
    """Texts taken one by one."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._last: list[str] = []

    def append(self, text: str) -> None:
        """Take the next text. Raises UnicodeEncodeError for one of a block that is no Unicode."""
        self._last.append(text)
        if len(self._last) == BLOCK:
            self._close()

    def finish(self) -> ArrowTexts:
        """Return all that was taken."""
        import pyarrow as pa

        self._close()
        return ArrowTexts(pa.chunked_array(self._chunks, pa.string()))

    def _close(self) -> None:
        import pyarrow as pa

        strings = pa.array(self._last, pa.string())
        self._chunks += strings.chunks if isinstance(strings, pa.ChunkedArray) else [strings]
        self._last = []


def arrow_texts(texts: Iterable[str]) -> ArrowTexts:
    """Return a column of some texts."""
    builder = TextBuilder()
    for text in texts:
        builder.append(text)
    return builder.finish()


def coded_texts(codes: np.ndarray, names: Iterable[str]) -> CodedTexts:
    """Return a column whose rows [N] are codes of some names."""
    return CodedTexts(codes, arrow_texts(names))


def text_column(texts: Sequence[str] | np.ndarray) -> TextColumn:
    """Return texts as a column; one that is such already comes back itself."""
    return texts if isinstance(texts, TextColumn) else arrow_texts(texts)


def hex_number(text: str) -> int | None:
    """Return what 16 lower-case hex digits say, None of any other text."""
    try:
        number = int(text, 16)
    except ValueError:
        return None
    return number if 0 <= number < 1 << 64 and f"{number:016x}" == text else None


def hex_texts(texts: Sequence[str]) -> HexTexts | None:
    """Return texts that are 16 lower-case hex digits each as numbers, None if any is not."""
    if isinstance(texts, HexTexts):
        return texts
    numbers = np.empty(len(texts), np.uint64)
    for start in range(0, len(texts), BLOCK):
        block = list(texts[start : start + BLOCK])
        if set(map(len, block)) != {16}:
            return None
        digits = _DIGIT[np.frombuffer("".join(block).encode("ascii", "replace"), np.uint8)].reshape(-1, 2)
        if (digits > 15).any():
            return None
        numbers[start : start + BLOCK] = (digits[:, 0] << 4 | digits[:, 1]).view(">u8")
    return HexTexts(numbers)


def rows_of(texts: Sequence[str], among: Sequence[str]) -> np.ndarray:
    """Return the row [N] of each text in a sequence of distinct ones [M], −1 where it is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers, known = hex_texts(texts), hex_texts(among)
    if numbers is not None and known is not None:
        rows = pc.index_in(pa.array(numbers.numbers), pa.array(known.numbers))
    else:
        columns = (text_column(each) for each in (texts, among))
        values, value_set = (column.chunks(0, len(column)).cast(pa.large_string()) for column in columns)
        rows = pc.index_in(values, value_set)
    return np.asarray(rows.fill_null(-1), np.int64)
