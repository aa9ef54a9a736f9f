"""The compiled passes over texts and ids as they are read: hashes of shingles, and numbers of 128-bit keys."""

from __future__ import annotations

import numpy as np

from kat.compiled import kernel, kernel_flags

FLAGS = kernel_flags(__file__)
_STEP, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_BITS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_LARGEST = np.uint64(0xFFFFFFFE)


@kernel(**FLAGS)
def hash_runs(letters: np.ndarray, run: int) -> np.ndarray:
    """Return a 32-bit hash [S] uint32, at most 2³² − 2, of every run of letters [L] uint32, with zeros after the last.

    Bits are mixed letter by letter (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    hashes = np.empty(max(len(letters), run) - run + 1, np.uint32)
    for i in range(len(hashes)):
        mixed = np.uint64(0)
        for j in range(i, i + run):
            mixed += (np.uint64(letters[j]) if j < len(letters) else np.uint64(0)) + _STEP
            mixed = (mixed ^ (mixed >> _BITS[0])) * _FIRST
            mixed = (mixed ^ (mixed >> _BITS[1])) * _SECOND
            mixed ^= mixed >> _BITS[2]
        hashes[i] = min(mixed >> _BITS[3], _LARGEST)
    return hashes


@kernel(**FLAGS)
def sketch_runs(letters: np.ndarray, run: int, most: int) -> np.ndarray:
    """Return the smallest hashes of `hash_runs`, ascending and distinct, at most so many."""
    hashes = np.sort(hash_runs(letters, run))
    n = 0
    for i in range(len(hashes)):
        if i == 0 or hashes[i] != hashes[n - 1]:
            if n == most:
                break
            hashes[n] = hashes[i]
            n += 1
    return hashes[:n]


@kernel(**FLAGS)
def number_of(slots: np.ndarray, keys: np.ndarray, upper: int, lower: int) -> int:
    """Return the number of a key, the row of `keys` [N, 2] int64 that holds it, or −1 − (the free slot for it).

    `slots` [2^m] int32 hold numbers, −1 where free, found by linear probing.
    """
    at = upper & (len(slots) - 1)
    while slots[at] >= 0:
        if keys[slots[at], 0] == upper and keys[slots[at], 1] == lower:
            return int(slots[at])
        at = (at + 1) & (len(slots) - 1)
    return -1 - at


@kernel(**FLAGS)
def numbers_of(slots: np.ndarray, keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the numbers [E] of keys [E, 2] int64, negative for those that have none."""
    numbers = np.empty(len(asked), np.int64)
    for e in range(len(asked)):
        numbers[e] = number_of(slots, keys, asked[e, 0], asked[e, 1])
    return numbers


@kernel(**FLAGS)
def fill_slots(slots: np.ndarray, keys: np.ndarray, n: int) -> None:
    """Put the first n keys, which are distinct, into free slots."""
    for number in range(n):
        slots[-1 - number_of(slots, keys, keys[number, 0], keys[number, 1])] = number
