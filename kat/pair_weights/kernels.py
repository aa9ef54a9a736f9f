"""The compiled passes over sketches: what most of them hold, the rarest hashes of each, and pairs that are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kat.compiled import kernel, kernel_flags

FLAGS = kernel_flags(__file__)
BUCKETS = 1 << 16
"""Hashes are counted by their upper 16 bits first."""
PARITIES = 192
"""Bits of a signature that hold parities: three words, so that a signature of four lies in one line of the cache."""
_UPPER, _LOWER, _GOLDEN = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(0x9E3779B97F4A7C15)


class Rows(NamedTuple):
    """X sketches in one flat array of H hashes.

    Row r is the `length` [X] hashes from `start` [X] on, which ascend. Those whose bit in `dropped` [H / 8 + 1] is set
    are left out; `size` [X] counts the others. A row of `full` hashes was cut: nothing is known beyond its last.
    """

    hashes: np.ndarray
    start: np.ndarray
    length: np.ndarray
    size: np.ndarray
    dropped: np.ndarray
    full: int


class Rarest(NamedTuple):
    """The rarest hashes of X rows: those of row r are the `taken` [X] entries from `first` [X + 1] on, rarest first.

    `held` [F] counts the rows that hold each, and `place` [F] says which of its row it is.
    """

    first: np.ndarray
    taken: np.ndarray
    held: np.ndarray
    place: np.ndarray


@kernel(**FLAGS)
def _is_dropped(rows: Rows, i: int) -> bool:
    return (rows.dropped[i >> 3] >> (i & 7)) & 1 != 0


@kernel(**FLAGS)
def _reach(rows: Rows, row: int) -> np.int64:
    """The largest hash up to which a row lacks none."""
    length = rows.length[row]
    return np.int64(rows.hashes[rows.start[row] + length - 1] if length == rows.full else 0xFFFFFFFE)


@kernel(**FLAGS)
def _shared_part(rows: Rows, a: int, b: int, least: float) -> float:
    i, j = rows.start[a], rows.start[b]
    i_stop, j_stop = i + rows.length[a], j + rows.length[b]
    limit = min(_reach(rows, a), _reach(rows, b))
    common, union = 0, 0
    most = (1 - least) * (rows.size[a] + rows.size[b])
    while union - common <= most:
        while i < i_stop and _is_dropped(rows, i):
            i += 1
        while j < j_stop and _is_dropped(rows, j):
            j += 1
        x = np.int64(rows.hashes[i]) if i < i_stop else limit + 1
        y = np.int64(rows.hashes[j]) if j < j_stop else limit + 1
        if x > limit and y > limit:
            return common / max(union, 1)
        union += 1
        common += x == y
        i += x <= y
        j += y <= x
    return 0.0


@kernel(**FLAGS)
def shared_parts(rows: Rows, a: np.ndarray, b: np.ndarray, least: float) -> np.ndarray:
    """Return the share [E] of hashes that the rows a[e] and b[e] have in common; 0 if under `least`.

    Only those up to the smaller reach count: beyond it one of them was cut. A share of `least` leaves room for
    (1 - least) · (all hashes of both) that stand in one alone: most candidates have more soon, and are given up there.
    """
    parts = np.zeros(len(a))
    for e in range(len(a)):
        parts[e] = _shared_part(rows, a[e], b[e], least)
    return parts


@kernel(**FLAGS)
def bucket_sizes(rows: Rows) -> np.ndarray:
    """Return how many hashes of all rows have each value [BUCKETS] of their upper 16 bits."""
    sizes = np.zeros(BUCKETS, np.int64)
    for row in range(len(rows.start)):
        for i in range(rows.start[row], rows.start[row] + rows.length[row]):
            if not _is_dropped(rows, i):
                sizes[rows.hashes[i] >> 16] += 1
    return sizes


@kernel(**FLAGS)
def drop_common(rows: Rows, slot: np.ndarray, slots: int, most: float) -> None:
    """Mark in `rows.dropped` the hashes that more than `most` rows hold, unless a row has no others; set `rows.size`.

    `slot` [BUCKETS] numbers the buckets of hashes that hold more than `most`, and is −1 for the others.
    """
    counts = np.zeros((slots, BUCKETS), np.uint32)
    for row in range(len(rows.start)):
        for i in range(rows.start[row], rows.start[row] + rows.length[row]):
            at = slot[rows.hashes[i] >> 16]
            if at >= 0:
                counts[at, rows.hashes[i] & 0xFFFF] += 1
    for row in range(len(rows.start)):
        first, common = rows.start[row], 0
        for i in range(first, first + rows.length[row]):
            at = slot[rows.hashes[i] >> 16]
            common += at >= 0 and counts[at, rows.hashes[i] & 0xFFFF] > most
        if common == 0 or common == rows.length[row]:
            continue
        rows.size[row] = rows.length[row] - common
        for i in range(first, first + rows.length[row]):
            at = slot[rows.hashes[i] >> 16]
            if at >= 0 and counts[at, rows.hashes[i] & 0xFFFF] > most:
                rows.dropped[i >> 3] |= np.uint8(1 << (i & 7))


@kernel(**FLAGS)
def leading(rows: Rows, which: np.ndarray, skip: int) -> np.ndarray:
    """Return two hashes of some rows [E] as one number [E] uint64: those after the first `skip`, or all ones."""
    keys = np.empty(len(which), np.uint64)
    for e in range(len(which)):
        i, stop = rows.start[which[e]], rows.start[which[e]] + rows.length[which[e]]
        key, seen = np.uint64(0), 0
        while seen < skip + 2:
            while i < stop and _is_dropped(rows, i):
                i += 1
            if seen >= skip:
                key = key << _UPPER | (np.uint64(rows.hashes[i]) if i < stop else _LOWER)
            i += 1
            seen += 1
        keys[e] = key
    return keys


@kernel(**FLAGS)
def _slot(table: np.ndarray, shift: int, number: int) -> int:
    """Where a hash is counted in `table` [2^(32 − shift), 2] uint32 of hashes and counts, by linear probing."""
    at = ((number * 1640531527) & 0xFFFFFFFF) >> shift
    while table[at, 1] != 0 and table[at, 0] != number:
        at = (at + 1) & (len(table) - 1)
    return at


@kernel(**FLAGS)
def count_hashes(rows: Rows, cursor: np.ndarray, high: int, table: np.ndarray, shift: int) -> bool:
    """Count the hashes from each row's `cursor` [X] to below `high` in an empty table; return whether half held them.

    If not, the table is to be taken larger: what it says then is of no use.
    """
    room = len(table) // 2
    for row in range(len(rows.start)):
        i, stop = rows.start[row] + cursor[row], rows.start[row] + rows.length[row]
        while i < stop and rows.hashes[i] < high:
            if not _is_dropped(rows, i):
                at = _slot(table, shift, np.int64(rows.hashes[i]))
                if table[at, 1] == 0:
                    if room == 0:
                        return False
                    room -= 1
                    table[at, 0] = rows.hashes[i]
                table[at, 1] += np.uint32(1)
            i += 1
    return True


@kernel(**FLAGS)
def take_rarest(rows: Rows, rarest: Rarest, cursor: np.ndarray, high: int, table: np.ndarray, shift: int) -> None:
    """Take the rarest of the hashes that `count_hashes` counted, with those that are held; move the cursors.

    Called for one range of hashes after the other, so that of equally rare ones the smallest stay.
    """
    for row in range(len(rows.start)):
        first = rarest.first[row]
        i, stop, room = rows.start[row] + cursor[row], rows.start[row] + rows.length[row], rarest.first[row + 1] - first
        taken = np.int64(rarest.taken[row])
        while i < stop and rows.hashes[i] < high:
            if not _is_dropped(rows, i) and room > 0:
                count = table[_slot(table, shift, np.int64(rows.hashes[i])), 1]
                if taken < room or count < rarest.held[first + room - 1]:
                    to = first + min(taken, room - 1)  # where all are taken the last falls out
                    while to > first and rarest.held[to - 1] > count:
                        rarest.held[to], rarest.place[to] = rarest.held[to - 1], rarest.place[to - 1]
                        to -= 1
                    rarest.held[to], rarest.place[to] = count, i - rows.start[row]
                    taken = min(taken + 1, room)
            i += 1
        rarest.taken[row] = taken
        cursor[row] = i - rows.start[row]


@kernel(**FLAGS)
def shared_bucket_sizes(rows: Rows, rarest: Rarest) -> np.ndarray:
    """Return how many of the rarest hashes that several rows hold have each value [BUCKETS] of their upper 16 bits."""
    sizes = np.zeros(BUCKETS, np.int64)
    for row in range(len(rows.start)):
        for f in range(rarest.first[row], rarest.first[row] + rarest.taken[row]):
            if rarest.held[f] > 1:
                sizes[rows.hashes[rows.start[row] + rarest.place[f]] >> 16] += 1
    return sizes


@kernel(**FLAGS)
def shared_keys(rows: Rows, rarest: Rarest, position: np.ndarray, low: int, high: int, keys: np.ndarray) -> int:
    """Set keys [K] uint64 to (hash, position [X] of the row) for the rarest hashes from `low` to below `high` that
    several rows hold; return their number."""
    n = 0
    for row in range(len(rows.start)):
        for f in range(rarest.first[row], rarest.first[row] + rarest.taken[row]):
            number = np.int64(rows.hashes[rows.start[row] + rarest.place[f]])
            if rarest.held[f] > 1 and low <= number < high:
                keys[n] = np.uint64(number) << _UPPER | np.uint64(position[row])
                n += 1
    return n


@kernel(**FLAGS)
def signatures(rows: Rows, order: np.ndarray) -> np.ndarray:
    """Return four words [X, 4] uint64 of each row order[p]: PARITIES bits, then its class and size.

    Bit by bit it says whether an odd number of the row's hashes fall there. Two rows that differ in d bits differ in at
    least d hashes (Sandes, Teodoro & Melo, "Bitmap filter", Information Systems 88, 2020). Of a row that was cut only
    hashes below a power of two count, its class, of which it lacks none; rows of one class can be compared.
    """
    signs = np.zeros((len(order), 4), np.uint64)
    for p in range(len(order)):
        row = order[p]
        power = 32
        if rows.length[row] == rows.full:
            reach = _reach(rows, row)
            while (1 << power) > reach:
                power -= 1
        for i in range(rows.start[row], rows.start[row] + rows.length[row]):
            number = np.int64(rows.hashes[i])
            if number < (1 << power) and not _is_dropped(rows, i):
                bit = ((number & 0xFFFF) * PARITIES) >> 16
                signs[p, bit >> 6] ^= np.uint64(1) << np.uint64(bit & 63)
        signs[p, 3] = np.uint64(power << 16) | np.uint64(rows.size[row])
    return signs


@kernel(**FLAGS)
def _bits(word: np.uint64) -> np.int64:
    """The number of one bits of a uint64."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel(**FLAGS)
def _may_be_near(signs: np.ndarray, p: int, q: int, least: float) -> bool:
    """Whether sizes and signatures leave room for a share of `least`."""
    size_p, size_q = np.int64(signs[p, 3]) & 0xFFFF, np.int64(signs[q, 3]) & 0xFFFF
    # Sets whose sizes differ by more cannot have so much in common; those of cut texts say nothing of size.
    if min(size_p, size_q) < least * max(size_p, size_q):
        return False
    if signs[p, 3] >> np.uint64(16) != signs[q, 3] >> np.uint64(16):
        return True
    apart = 0
    for word in range(3):
        apart += _bits(signs[p, word] ^ signs[q, word])
    both = size_p + size_q
    return bool((both - apart) / (both + apart) >= least)


@kernel(**FLAGS)
def near_pairs(
    rows: Rows,
    order: np.ndarray,
    signs: np.ndarray,
    keys: np.ndarray,
    first: int,
    window: int,
    least: float,
    memo: np.ndarray,
    ends: np.ndarray,
) -> tuple[int, int]:
    """Compare the rows of each key [K] from the one at `first` on with the `window` that follow it with its hash.

    Pairs of rows a < b that share `least` are written to `ends` [E] as a · X + b. Returns the key that is next, less
    than K where `ends` is full, and the number of pairs. `memo` [2^m] holds pairs that were compared: many share
    several of their rarest hashes.
    """
    n, many = 0, np.int64(len(rows.start))
    for k in range(first, len(keys)):
        if n + window > len(ends):
            return k, n
        p = np.int64(keys[k] & _LOWER)
        for other in range(k + 1, min(k + 1 + window, len(keys))):
            if keys[other] >> _UPPER != keys[k] >> _UPPER:
                break
            q = np.int64(keys[other] & _LOWER)
            if not _may_be_near(signs, p, q, least):
                continue
            a, b = np.int64(min(order[p], order[q])), np.int64(max(order[p], order[q]))
            pair = a * many + b
            at = np.int64((np.uint64(pair) * _GOLDEN) >> _UPPER) & (len(memo) - 1)
            if memo[at] == pair:
                continue
            memo[at] = pair
            if _shared_part(rows, a, b, least) >= least:
                ends[n] = pair
                n += 1
    return len(keys), n
