"""A sample's file: one id a line, whatever the id holds."""

from __future__ import annotations

import json
from pathlib import Path

from kat.errors import InputError
from kat.terminal import escaped


def id_line(opening_id: str) -> bytes:
    """Return an id as a line of a sample's file.

    It is the id itself, or the id as a JSON string in ASCII if it could not be read back: if it is empty, begins with a
    quotation mark, begins or ends with white space, or holds a line break or anything else that `escaped` escapes.
    """
    plain = opening_id.strip() == opening_id == escaped(opening_id) and not opening_id.startswith('"')
    return (opening_id if plain and opening_id else json.dumps(opening_id)).encode("utf-8") + b"\n"


def read_sample(path: str | Path) -> list[str]:
    """Read the ids that `kat sample` drew, in the order of the run.

    Raises InputError, naming the line, for a file that is no sample's.
    """
    path = Path(path)
    ids = []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                ids.append(_id_of(line.removesuffix("\n"), f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read: {error}. Make it with: kat sample RUN --budget B --out FILE"
        ) from error
    return ids


def _id_of(line: str, where: str) -> str:
    if not line.startswith('"'):
        return line
    try:
        opening_id = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} begins with a quotation mark and is no JSON string: {error}.") from error
    assert isinstance(opening_id, str), "what begins with a quotation mark is one"
    return opening_id
