"""What a file is that kat cannot read as rows, told by its first bytes, and how to convert it."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 4096
_BINARY = (
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "Unpack it: unzip {path}; save a spreadsheet as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it: 7z x {path}"),
    (b"Rar!", "a rar archive", "Unpack it: unrar x {path}"),
    (
        b"SQLite format 3\x00",
        "an SQLite database",
        "Save its table: sqlite3 -header -csv {path} 'select * from TABLE' > rows.csv",
    ),
    (b"%PDF-", "a PDF", "Give the rows as JSON lines"),
    (b"\x89HDF\r\n", "an HDF5 file", "Save its rows as parquet: pandas.read_hdf({path!r}).to_parquet('rows.parquet')"),
    (b"Obj\x01", "an Avro file", "Save its rows as JSON lines"),
    (
        b"ORC",
        "an ORC file",
        "Save it as parquet: pyarrow.parquet.write_table(pyarrow.orc.read_table({path!r}), 'rows.parquet')",
    ),
    (b"\x93NUMPY", "a NumPy array", "Rows of text were expected"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data itself", "Fetch the data: git lfs pull"),
)
_TABLES = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
"""What parquet and Arrow begin with: what they are is known."""
_TAR = 257
"""Where a tar archive says that it is one."""
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_JQ = "jq -c . {path} > rows.jsonl"


def refused_kind(path: Path, head: bytes) -> str | None:
    """Return what a file is, and what to do, if its first bytes are of a format that holds no rows for kat."""
    for magic, name, remedy in _BINARY:
        if head.startswith(magic):
            return f"{path} is {name}. {remedy.format(path=str(path))}."
    if head[_TAR : _TAR + 5] == b"ustar":
        return f"{path} is a tar archive. Unpack it: tar xf {path}."
    if _PICKLE.match(head):
        return f"{path} is a Python pickle, which kat does not open: it can run code. Save the rows as JSON lines."
    return None


def seems_to_be(path: Path) -> str | None:
    """Guess from its text what a file is of which most rows are bad; None where nothing is known."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_TABLES):
        return None
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"(?i)<(!doctype|html|\?xml)", text):
        return f"{path} seems to be a web page or XML, perhaps an error page that was saved. Download it again."
    if re.match(rb"\{\s*\n", text) or re.match(rb"\{\s*\"[^\"]*\"\s*:[^\n]*,\s*\n\s", text):
        return f"{path} seems to be JSON written over several lines. One object a line: {_JQ.format(path=path)}"
    if re.match(rb"\{\s*'", text):
        return (
            f"{path} seems to hold Python's repr of dicts. As JSON lines: python -c \"import ast, json, sys; "
            f"[print(json.dumps(ast.literal_eval(line))) for line in open('{path}')]\" > rows.jsonl"
        )
    try:
        head[: head.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError:
        return f"{path} seems to be in another encoding than UTF-8: iconv -f WINDOWS-1252 -t UTF-8 {path} > rows.jsonl"
    if not text.startswith((b"{", b"[")):
        return f"{path} seems to be text without a format that kat knows. Give each row as one JSON object a line."
    return None
