"""Ids numbered in the order that they come, without an object of Python's for each."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np

_BATCH = 1 << 16
_KEY = struct.Struct("=qq")


class IdNumbers:
    """The number of every id that was added, 0 for the first; 18 to 36 bytes each.

    Ids are known by 128 bits of a digest, as exact duplicates of pairs are: two of 10 million are taken for one with a
    probability of 10⁻²⁵.
    """

    def __init__(self) -> None:
        self._keys = np.empty((1 << 10, 2), np.int64)
        self._slots = np.full(1 << 11, -1, np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __contains__(self, one: str) -> bool:
        return self._find(_digest(one)) >= 0

    def add(self, one: str) -> bool:
        """Give an id the next number; return whether it had none."""
        digest = _digest(one)
        if (at := self._find(digest)) >= 0:
            return False
        self._slots[-1 - at] = self._n
        self._keys[self._n] = _KEY.unpack(digest)
        self._n += 1
        if self._n == len(self._keys):
            self._grow()
        return True

    def numbers(self, ids: Sequence[str]) -> np.ndarray:
        """Return the numbers of ids [X] int64. Raises KeyError for one that was never added."""
        from kat.pair_weights.text_kernels import numbers_of

        numbers = np.empty(len(ids), np.int64)
        for first in range(0, len(ids), _BATCH):
            batch = ids[first : first + _BATCH]
            asked = np.frombuffer(b"".join(map(_digest, batch)), np.int64).reshape(-1, 2)
            some = numbers_of(self._slots, self._keys, asked)
            if (some < 0).any():
                raise KeyError(batch[int(np.argmax(some < 0))])
            numbers[first : first + len(batch)] = some
        return numbers

    def _find(self, digest: bytes) -> int:
        from kat.pair_weights.text_kernels import number_of

        return number_of(self._slots, self._keys, *_KEY.unpack(digest))

    def _grow(self) -> None:
        """Make room for half as many again; two thirds of the slots are taken at most."""
        from kat.pair_weights.text_kernels import fill_slots

        keys = np.empty((self._n * 3 // 2, 2), np.int64)
        keys[: self._n] = self._keys
        self._keys = keys
        if 3 * len(keys) > 2 * len(self._slots):
            self._slots = np.full(2 * len(self._slots), -1, np.int32)
            fill_slots(self._slots, keys, self._n)


def _digest(one: str) -> bytes:
    return hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=16).digest()
