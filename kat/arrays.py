"""Arrays on disk, and the ids of their rows: mapped, never unpickled, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kat.artifacts import check_vouched
from kat.errors import MismatchError, first_words

if TYPE_CHECKING:
    import numpy as np


def load_array(path: Path, *, vouched: bool = True) -> np.ndarray:
    """Map an .npy array of numbers into memory, never unpickled, and compare it with what a manifest says of it if
    `vouched`. Raises MismatchError if it is no such file, or another one."""
    import numpy as np

    if path.exists() and not path.is_file():
        raise MismatchError(f"{path} is no array that kat can read: it is no regular file.")
    if vouched and path.is_file():
        check_vouched(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it holds {array.dtype}, and no numbers")
    except Exception as error:  # a damaged header makes NumPy raise whatever it meets
        raise MismatchError(f"{path} is no array that kat can read: {first_words(error)}") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_ids(ids: Sequence[str], n: int, where: str) -> None:
    """Raise MismatchError unless there are n ids, of letters that a file can hold, and no two alike."""
    if len(ids) != n:
        raise MismatchError(f"{where}: {len(ids):,} ids for {n:,} rows.")
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:
        row = next(row for row, one in enumerate(ids) if error.object[error.start] in one)
        raise MismatchError(
            f"{where}: the id {ids[row]} in row {row} is no Unicode text. Give the row another id."
        ) from None
    if len(set(ids)) < n:
        first: dict[str, int] = {}
        row, repeated = next((r, i) for r, i in enumerate(ids) if first.setdefault(i, r) != r)
        raise MismatchError(f"{where} repeats the id {repeated} in row {row}.")


def compare_ids(ids: Sequence[str], others: Iterable[str], name: str, other_name: str) -> None:
    """Raise MismatchError, naming the first difference, unless both are the same in the same order."""
    count = 0
    for other in others:
        if count < len(ids) and ids[count] != other:
            raise MismatchError(
                f"Row {count} is {ids[count]} in {name} and {other} in {other_name}; was it made from this file?"
            )
        count += 1
    if count != len(ids):
        raise MismatchError(f"{name} has {len(ids):,} ids and {other_name} {count:,}.")


def check_array(path: Path, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """Raise MismatchError unless an array is float32 of a shape, in which None stands for any length."""
    fits = array.ndim == len(shape) and all(s in (None, t) for s, t in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != "float32":
        expected = " × ".join("any" if s is None else f"{s:,}" for s in shape)
        raise MismatchError(f"{path} is {array.dtype} of shape {array.shape}; expected float32 of {expected}.")
