"""Compiled kernels of the exact neighbour search: encode rows, scan a tile of products, decide by exact distances.

Units: "code" quantities are in steps of the grid of `encode`; x, distances and best are in the units of the input.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kat.compiled import kernel, kernel_flags

SPARE = 64  # new candidates of a row before its list is compacted again
BOUNDLESS = 2147480000.0  # above every squared code distance, and below 2^31
LINE = 16  # float32 numbers in a cache line
REDUCE = {"reassoc", "contract", "nsz"}  # let a sum use all lanes; NaN and infinity keep their meaning
FLAGS = kernel_flags(__file__)
ROWS = [types.Array(types.float32, 1, "C", readonly=mapped) for mapped in (False, True)]  # in memory, and of a file


class Points(NamedTuple):
    """Rows in the order they are searched: position p is row order[p] of x and has the code norm norms[p]."""

    x: np.ndarray  # float32 [N, D]
    order: np.ndarray  # int64 [P]
    norms: np.ndarray  # int32 or float32 [P] squared norm of the code


class Lists(NamedTuple):
    """Candidates of every query position, unordered. C is the room of a list."""

    keys: np.ndarray  # int64 [P, C]: 32 bits of the squared code distance above 32 bits of position
    counts: np.ndarray  # int32 [P] candidates held
    full: np.ndarray  # int32 [P] count at which the list is compacted
    limits: np.ndarray  # int32 [P] squared code distance above which candidates were left out
    slack: np.ndarray  # float64 [P] bound on |distance - code distance|, in steps
    rounding: np.ndarray  # float64 [P] bound on the rounding error of a squared code distance, in steps^2


class Search(NamedTuple):
    """What is searched for whom: the k nearest of `points` for every query."""

    query: Points
    points: Points
    step: float  # of the grid of codes, in units of x
    k: int


class Best(NamedTuple):
    """Scratch lists [k] of the best candidates of one query position, ascending by (distance, index)."""

    squares: np.ndarray  # float64 [k] squared distances
    indices: np.ndarray  # int64 [k] rows of x
    places: np.ndarray  # int64 [k] where they stand in the list of candidates


def empty_lists(room: int, k: int, slack: np.ndarray, rounding: np.ndarray) -> Lists:
    """Return lists without candidates for query positions [P]; see `Lists` for slack and rounding."""
    rows = len(slack)
    full, limits = np.full(rows, min(room, k + SPARE), np.int32), np.full(rows, BOUNDLESS, np.int32)
    return Lists(
        keys=np.empty((rows, room), np.int64),
        counts=np.zeros(rows, np.int32),
        full=full,
        limits=limits,
        slack=slack,
        rounding=rounding,
    )


@intrinsic
def prefetch(_: Any, x: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of x[row, column] (float32, C-contiguous): gathered rows wait for memory otherwise."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, args[0])
        at = builder.add(builder.mul(args[1], builder.extract_value(array.shape, 1)), args[2])
        address = builder.bitcast(builder.gep(array.data, [at]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(fetch, [address, ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)])
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64), emit


@intrinsic
def trailing_zeros(_: Any, word: Any) -> Any:
    """Return the number of zero bits below the lowest one bit of a uint64 other than 0."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


# With its types named it is compiled, or read from the cache, before what calls it. Else a process would take the
# caller's own copy or this one, whose sums may be in another order, depending on whether it compiled or read the cache.
@kernel([types.float64(a, b) for a in ROWS for b in ROWS], fastmath=REDUCE, **FLAGS)
def squared_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return ||a - b||^2 in float64 of two float32 rows [D], summed from differences (no cancellation of norms)."""
    total = 0.0
    for t in range(a.shape[0]):
        gap = np.float64(a[t]) - np.float64(b[t])
        total += gap * gap
    return total


@kernel(fastmath=REDUCE, **FLAGS)
def encode(
    x: np.ndarray,
    order: np.ndarray,
    start: int,
    stop: int,
    mean: np.ndarray,
    step: float,
    top: float,
    codes: np.ndarray,
    norms: np.ndarray,
    residuals: np.ndarray,
) -> None:
    """Set codes[p] = (x[order[p]] - mean) / step, rounded to +-top where top > 0, squared norms and error norms."""
    for p in range(start, stop):
        row, code = x[order[p]], codes[p]
        norm, residual = 0.0, 0.0
        for t in range(row.shape[0]):
            exact = (np.float64(row[t]) - mean[t]) / step
            code[t] = codes.dtype.type(min(max(np.rint(exact), -top), top) if top > 0 else exact)
            held = np.float64(code[t])
            norm += held * held
            residual += (exact - held) * (exact - held)
        norms[p] = norms.dtype.type(norm)
        residuals[p] = np.sqrt(residual)


@kernel(**FLAGS)
def kth_smallest(values: np.ndarray, k: int) -> int:
    """Return the k-th smallest (from 1) of a scratch array, which is reordered (quickselect, Lomuto's scheme).

    The partition has no branch on the values: those would be guessed wrongly half of the time.
    """
    low, high, at = 0, values.shape[0] - 1, k - 1
    while low < high:
        middle = (low + high) >> 1
        pivot = values[middle]
        values[middle] = values[high]
        edge = low
        for j in range(low, high):
            value = values[j]
            values[j] = values[edge]
            values[edge] = value
            edge += value < pivot
        values[high] = values[edge]
        values[edge] = pivot
        if edge == at:
            break
        low, high = (low, edge - 1) if at < edge else (edge + 1, high)
    return values[at]


@kernel(**FLAGS)
def to_limit(lists: Lists, p: int, distance: float, spare: float = 1e-6) -> np.int32:
    """Return the limit that leaves out no row within a distance (in steps) of query position p.

    2e-7 covers the rounding of the limit to float32 in `mark`; what is spare, that of the distance it is checked for.
    """
    reach = distance + lists.slack[p]
    return np.int32(min((reach * reach + lists.rounding[p]) * (1 + 2e-7 + spare) + (spare > 0), BOUNDLESS))


@kernel(**FLAGS)
def rank_limit(lists: Lists, p: int, k: int, rank: int) -> tuple[np.int64, np.int32]:
    """Return the key of the candidate of a rank and the limit it suggests; for rank 0 the k-th, and a proven limit.

    The k-th code distance plus the slack bounds the k-th distance from above: that is the proof. A suggested limit
    takes the code distance for the distance, at a rank fitting the share of rows seen; `finish` checks it.
    """
    proven = rank == 0
    key = kth_smallest(lists.keys[p, : lists.counts[p]].copy(), k if proven else min(rank, lists.counts[p]))
    distance = np.sqrt(np.float64(key >> 32) + lists.rounding[p])
    return key, to_limit(lists, p, distance + (lists.slack[p] if proven else 0.0))


@kernel(**FLAGS)
def place(best: Best, taken: int, d2: float, index: int, candidate: int) -> int:
    """Insert a candidate into the scratch lists, of which `taken` places are filled; return how many are then."""
    squares, indices, places = best
    k = squares.shape[0]
    if taken == k and (d2 > squares[k - 1] or (d2 == squares[k - 1] and index > indices[k - 1])):
        return taken
    at = taken if taken < k else k - 1
    while at > 0 and (squares[at - 1] > d2 or (squares[at - 1] == d2 and indices[at - 1] > index)):
        squares[at], indices[at], places[at] = squares[at - 1], indices[at - 1], places[at - 1]
        at -= 1
    squares[at], indices[at], places[at] = d2, index, candidate
    return min(taken + 1, k)


@kernel(**FLAGS)
def refine(lists: Lists, p: int, search: Search, key: int, best: Best) -> int:
    """Find the k best candidates of query position p by exact distance, for the scratch lists; return their limit.

    The k nearest codes (up to `key`) come first, moved to the front; of the others only those count that the k-th
    exact distance so far cannot rule out. Rows that come up soon are fetched ahead.
    """
    query, points, step, k = search
    row, keys, count = query.x[query.order[p]], lists.keys[p], lists.counts[p]
    front = 0
    for c in range(count):
        if keys[c] <= key:
            keys[front], keys[c] = keys[c], keys[front]
            front += 1
    taken, limit = 0, lists.limits[p]
    for c in range(count):
        if c + 2 < count and np.int32(keys[c + 2] >> 32) <= limit:
            ahead = points.order[np.int32(keys[c + 2])]
            for t in range(0, row.shape[0], LINE):
                prefetch(points.x, ahead, t)
        if c == k:
            limit = min(limit, to_limit(lists, p, np.sqrt(best.squares[k - 1]) / step))
        if c < k or np.int32(keys[c] >> 32) <= limit:
            index = points.order[np.int32(keys[c])]
            taken = place(best, taken, squared_distance(row, points.x[index]), index, c)
    return to_limit(lists, p, np.sqrt(best.squares[k - 1]) / step)


@kernel(inline="never", **FLAGS)
def compact(lists: Lists, p: int, search: Search, rank: int) -> None:
    """Make room in a full list: drop what the code distances rule out; if that is little, keep the k best exactly.

    Without vectors (x of no rows), the nearer half of the codes is kept: the limit falls below what is proven, so that
    `finish` asks again for whatever was left out wrongly.
    """
    k = search.k
    key, limit = rank_limit(lists, p, k, rank)
    limit = min(limit, lists.limits[p])
    keys, left, room = lists.keys[p], 0, lists.keys.shape[1]
    for c in range(lists.counts[p]):
        keys[left] = keys[c]
        left += np.int32(keys[c] >> 32) <= limit
    lists.limits[p], lists.counts[p] = limit, left
    if left > room - room // 4 and search.query.x.shape[0] == 0:
        key = kth_smallest(keys[:left].copy(), min(left, max(k, room // 2)))
        limit = lists.limits[p] = min(limit, np.int32(key >> 32) - 1)
        stay = 0
        for c in range(left):
            keys[stay] = keys[c]
            stay += np.int32(keys[c] >> 32) <= limit
        left = lists.counts[p] = stay
    elif left > room - room // 4:
        key, _ = rank_limit(lists, p, k, 0)
        best = Best(np.empty(k), np.empty(k, np.int64), np.empty(k, np.int64))
        lists.limits[p] = min(limit, refine(lists, p, search, key, best))
        best.places.sort()  # ascending, so that no key is overwritten before it is read
        for c in range(k):
            keys[c] = keys[best.places[c]]
        left = lists.counts[p] = k
    lists.full[p] = min(room, left + SPARE)


@kernel(**FLAGS)
def mark(line: np.ndarray, norms: np.ndarray, limits: np.ndarray, norm: float, limit: float, marks: np.ndarray) -> None:
    """Set marks [n] to 1 where the squared code distance may be within the row's or the column's limit.

    Lists and limits hold distances rounded down: one that is no whole number may lie above its limit by less than 1.
    """
    kind = line.dtype.type
    spare = kind(kind(0.5) + kind(0.5))  # 1, and 0 for whole numbers
    for j in range(line.shape[0]):  # every step is narrowed to 32 bits: numba would work in 64, at half the lanes
        value = kind(kind(norm + norms[j]) - kind(line[j] + line[j]))
        marks[j] = value <= kind(kind(max(limit, limits[j])) + spare)


@kernel(**FLAGS)
def scan(
    products: np.ndarray,
    lists: Lists,
    search: Search,
    first_row: int,
    first_column: int,
    limits: np.ndarray,
    symmetric: bool,
    itself: bool,
    ranks: np.ndarray,
) -> None:
    """Offer a tile of code products [m, n] to the lists of its rows and, where symmetric, of its columns.

    limits [n] are the columns' limits (a view, or never reached); itself: leave out equal rows of x; ranks: of the
    rows and the columns, for `rank_limit`. Squared code distance = norm + norm - 2 product, exact for int32.
    """
    query, points = search.query, search.points
    kind = products.dtype.type
    m, n = products.shape
    norms = points.norms[first_column : first_column + n]
    keys, counts, full = lists.keys, lists.counts, lists.full
    marks = np.zeros((n + 7) // 8 * 8, np.uint8)
    words = marks.view(np.uint64)
    for i in range(m):
        p, line = first_row + i, products[i]
        norm, limit = query.norms[p], lists.limits[p]
        mark(line=line, norms=norms, limits=limits, norm=norm, limit=limit, marks=marks)
        for word in range(words.shape[0]):
            left = words[word]
            while left != 0:
                j = 8 * word + (trailing_zeros(left) >> 3)
                left &= left - np.uint64(1)
                value = np.int32(max(kind(kind(norm + norms[j]) - kind(line[j] + line[j])), kind(0)))
                c, bits = first_column + j, np.int64(value) << 32
                if value <= limit and not (itself and query.order[p] == points.order[c]):
                    keys[p, counts[p]] = bits | c
                    counts[p] += 1
                    if counts[p] == full[p]:
                        compact(lists, p, search, ranks[0])
                        limit = lists.limits[p]
                if symmetric and value <= limits[j]:
                    keys[c, counts[c]] = bits | p
                    counts[c] += 1
                    if counts[c] == full[c]:
                        compact(lists, c, search, ranks[1])


@kernel(**FLAGS)
def finish(
    lists: Lists,
    search: Search,
    sequence: np.ndarray,
    indices: np.ndarray,
    distances: np.ndarray,
    proven: np.ndarray,
) -> None:
    """Write the exact k nearest of the query positions in `sequence` at their rows of indices, distances [N, k].

    proven [P] tells the positions whose limits left out nothing within the k-th exact distance found.
    """
    k, step, order = search.k, search.step, search.query.order
    best = Best(np.empty(k), np.empty(k, np.int64), np.empty(k, np.int64))
    for p in sequence:
        proven[p] = False
        if lists.counts[p] < k:
            continue
        key, _ = rank_limit(lists, p, k, 0)
        refine(lists, p, search, key, best)
        proven[p] = to_limit(lists, p, np.sqrt(best.squares[k - 1]) / step, 0.0) <= lists.limits[p]
        at = order[p]
        for c in range(k):
            indices[at, c], distances[at, c] = best.indices[c], np.sqrt(best.squares[c])
