"""A file's bytes as UTF-8 text, whatever compresses or encodes them: told by what the file begins with."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kat.data.kinds import refused_kind
from kat.errors import InputError

BOM = codecs.BOM_UTF8
_HEAD = 512
_CHUNK = 1 << 20
_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00"}
_NAMES = {".gz": "gzip", ".zst": "zstandard", ".bz2": "bzip2", ".xz": "xz"}
_MARKS = {  # the longer first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file's bytes, decompressed and as UTF-8 without a mark; they may be of another format than text.

    Raises InputError if its name promises a compression that its content lacks, or it is a kind that holds no rows.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        stream = _decompressed(path, file)
        if stream is not file:
            stack.enter_context(stream)
        head = _peeked(stream)
        if refused := refused_kind(path, head):
            raise InputError(refused)
        if encoding := _encoding(head):
            stream = io.BufferedReader(_Recoded(stream, encoding), _CHUNK)
        elif head.startswith(BOM):
            stream.read(len(BOM))
        yield stream


def _decompressed(path: Path, file: io.BufferedReader) -> io.BufferedReader:
    """The decompressed bytes of a file, or the file itself."""
    head = _peeked(file)
    kind = next((suffix for suffix, magic in _MAGIC.items() if head.startswith(magic)), None)
    if kind is None:
        if head and path.suffix.lower() in _MAGIC:
            name = _NAMES[path.suffix.lower()]
            raise InputError(
                f"{path} is no {name} file, or damaged. Copy it again; if it is not compressed, "
                f"name it without {path.suffix}."
            )
        return file
    if kind == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"), _CHUNK)
    return io.BufferedReader(_python_stream(kind, file), _CHUNK)


def _python_stream(kind: str, file: IO[bytes]) -> io.RawIOBase:
    import bz2
    import gzip
    import lzma

    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[kind]
    stream: io.RawIOBase = opener(file, "rb")  # type: ignore[operator]
    return stream


def _peeked(stream: io.BufferedReader) -> bytes:
    return stream.peek(_HEAD)[:_HEAD]


def _encoding(head: bytes) -> str | None:
    """The encoding that a file's mark names, or that the zeros in its first characters tell; None for UTF-8."""
    if marked := next((name for mark, name in _MARKS.items() if head.startswith(mark)), None):
        return marked
    if len(head) >= 4 and head[0] and head[2] and not head[1] and not head[3]:
        return "utf-16-le"
    if len(head) >= 4 and head[1] and head[3] and not head[0] and not head[2]:
        return "utf-16-be"
    return None


class _Recoded(io.RawIOBase):
    """A stream in another encoding as UTF-8. A lone surrogate stays one, so that its row alone is bad."""

    def __init__(self, source: io.BufferedReader, encoding: str) -> None:
        self._source, self._left = source, b""
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._ended = False

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; 0 at the end. Raises UnicodeDecodeError for bytes that are no text of the encoding."""
        while not self._left and not self._ended:
            data = self._source.read(_CHUNK)
            self._ended = not data
            self._left = self._decoder.decode(data, final=self._ended).encode("utf-8", "surrogatepass")
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
