"""Errors that name the texts they are about."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from kat.embedding.pieces import TextPieces
from kat.errors import WorkerError
from kat.records import Prefix


@contextlib.contextmanager
def naming_texts(pieces: TextPieces, plan: Sequence[np.ndarray], id_of: Callable[[int], str]) -> Iterator[None]:
    """Add to the error of a pack that cost several workers whose texts it holds."""
    try:
        yield
    except WorkerError as error:
        if error.task is None:
            raise
        texts = pieces.texts_of(plan[error.task])
        ids = ", ".join(id_of(int(text)) for text in texts[:5]) + ", …" * (len(texts) > 5)
        count = f"{len(texts):,} text{'s' * (len(texts) != 1)}"
        raise WorkerError(
            f"{error} It holds {count}, ids {ids}. Look at them, or read less at a time: --max_tokens, --batch_size."
        ) from error


def id_of_row(items: Iterable[Prefix], start: int, row: int) -> str:
    """Return the id of an item of a file, read again for the sake of an error."""
    return next(islice(items, start + row, None)).id
