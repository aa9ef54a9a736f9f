"""The tiles of a neighbour search: products of codes, who works on which tile, and going on after a stop."""

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAVE_SECONDS = 30.0
SPREAD = 4.0  # standard deviations allowed to the rank of a suggested limit
NEVER = -(2**31) + 1  # a limit that nothing meets
TILE = 1024  # rows of a block: an int32 tile of products stays in the cache

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One search: the points and queries in code form, the candidate lists and how to fill them."""

    query: Any  # kernels.Points, P positions
    points: Any  # kernels.Points, N positions
    query_codes: Any  # torch tensor int8 or float32 [P, D]
    codes: Any  # torch tensor [N, D]
    query_bounds: np.ndarray  # int64 [blocks + 1] positions between the blocks of queries
    bounds: np.ndarray  # int64 [blocks + 1]
    lists: Any  # kernels.Lists
    step: float  # of the grid of codes, in units of x
    k: int
    threads: int
    itself: bool  # queries are rows of x: each is left out of its own neighbours
    symmetric: bool  # queries are all points: a tile serves both sides
    among: int  # points that are searched among in all, here or elsewhere
    strict: bool = False  # proven limits only

    @property
    def search(self) -> Any:
        """What the kernels take of this job (kernels.Search)."""
        from kat.neighbors import kernels

        return kernels.Search(self.query, self.points, self.step, self.k)


def cuts(rows: int, tile: int) -> np.ndarray:
    """Return bounds int64 [blocks + 1] of blocks of at most `tile` rows, sizes differing by one."""
    blocks = -(-rows // tile)
    return np.arange(blocks + 1) * rows // blocks


def in_parts(work: Callable[[int, int], None], rows: int, threads: int) -> None:
    """Call work(start, stop) for parts of `rows` in a pool of threads."""
    bounds = cuts(rows, max(1, min(2048, -(-rows // threads))))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1].tolist(), bounds[1:].tolist()))


def has_int8_products(columns: int) -> bool:
    """Return whether torch multiplies int8 exactly here, with VNNI or AMX (other paths may saturate)."""
    import torch

    able = getattr(torch.cpu, "_is_vnni_supported", bool)  # bool() is False: an older torch
    if not (able() and hasattr(torch, "_int_mm")):
        return False
    codes = torch.full((32, columns), 127, dtype=torch.int8)
    codes[::2] = -127
    try:
        return bool((torch._int_mm(codes, codes.T).abs() == 127 * 127 * columns).all())
    except RuntimeError:
        return False


def pairs_of(job: Job) -> list[tuple[int, int]]:
    """Return all tiles of a job, (row block, column block), so that the first ones serve every block alike."""
    rows, columns = len(job.query_bounds) - 1, len(job.bounds) - 1
    shifts = ((a, (a + shift) % columns) for shift in range(columns) for a in range(rows))
    return [(a, b) for a, b in shifts if not job.symmetric or b >= a]


class Schedule:
    """Hand out tiles (row block, column block) such that no two at work write the same lists."""

    def __init__(
        self,
        job: Job,
        progress: Progress | None,
        save: Callable[[np.ndarray], None] | None,
        tiles: list[tuple[int, int]] | None = None,
    ) -> None:
        tiles = pairs_of(job) if tiles is None else tiles
        self.symmetric, self.progress, self.save = job.symmetric, progress, save
        self.number = {tile: at for at, tile in enumerate(tiles)}
        self.pending, self.changed = tiles, threading.Condition()
        self.busy: set[int] = set()  # blocks of queries whose lists are being filled
        self.done = np.zeros(len(tiles), bool)
        self.saved = time.monotonic()

    def restore(self, done: np.ndarray) -> None:
        """Leave out the tiles [tiles] that are done."""
        self.done[:] = done
        self.pending = [tile for tile in self.pending if not done[self.number[tile]]]

    def writes(self, tile: tuple[int, int]) -> set[int]:
        """Return the blocks of queries whose lists a tile fills."""
        return set(tile) if self.symmetric else {tile[0]}

    def take(self) -> tuple[int, int] | None:
        """Return the next tile whose lists are free, None when there is none left; waits where needed."""
        with self.changed:
            while True:
                due = self.save is not None and time.monotonic() - self.saved > SAVE_SECONDS
                if self.save is not None and due and not self.busy:
                    self.save(self.done)
                    self.saved, due = time.monotonic(), False
                free = (at for at, tile in enumerate(self.pending) if not self.writes(tile) & self.busy)
                at = None if due else next(free, None)
                if at is not None:
                    tile = self.pending.pop(at)
                    self.busy |= self.writes(tile)
                    return tile
                if not self.pending:
                    return None
                self.changed.wait()

    def give(self, tile: tuple[int, int]) -> None:
        """Tell that a tile is finished."""
        with self.changed:
            self.busy -= self.writes(tile)
            self.done[self.number[tile]] = True
            if self.progress is not None:
                self.progress(int(self.done.sum()), len(self.done))
            self.changed.notify_all()

    def stop(self) -> None:
        """Hand out no more tiles, and save no more: the lists of a tile that failed may be half filled."""
        with self.changed:
            self.pending.clear()
            self.save = None
            self.changed.notify_all()


def run(
    job: Job,
    progress: Progress | None,
    checkpoint: str | os.PathLike | None,
    tiles: list[tuple[int, int]] | None = None,
) -> np.ndarray:
    """Fill the lists of a job by all tiles, or those named, in threads with one-threaded products each.

    Returns the points that each block of queries met, int64 [query blocks].
    """
    import torch

    seen = np.zeros(len(job.query_bounds) - 1, np.int64)
    save = None
    if checkpoint is not None:
        path, name = Path(checkpoint), fingerprint(job)
        state = {"counts": job.lists.counts, "full": job.lists.full, "limits": job.lists.limits, "seen": seen}

        def save(done: np.ndarray) -> None:
            write(path, name, {"keys": job.lists.keys, "done": done, **state})

    schedule = Schedule(job, progress, save, tiles)
    if checkpoint is not None and path.exists():
        done = np.zeros_like(schedule.done)
        if read(path, name, {"keys": job.lists.keys, "done": done, **state}):
            schedule.restore(done)
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(job.threads) as pool:
            list(pool.map(lambda _: work(job, schedule, seen), range(job.threads)))
    finally:
        torch.set_num_threads(before)
    if checkpoint is not None:
        path.unlink(missing_ok=True)
    return seen


class Products:
    """Multiply codes tile by tile, each into the memory of the last.

    Where 8-bit products are not exact, whole numbers of enough bits are: in float32 while sums stay below 2^24.
    """

    def __init__(self, job: Job) -> None:
        import torch

        side = int(np.diff(job.query_bounds).max()) * int(np.diff(job.bounds).max())
        columns, is_int = job.codes.shape[1], job.codes.dtype == torch.int8
        self._room = torch.empty(side, dtype=torch.int32 if is_int else torch.float32)
        self._through = None
        if is_int and not has_int8_products(columns):
            self._through = torch.float32 if 127 * 127 * columns < 2**24 else torch.float64

    def __call__(self, a: Any, b: Any) -> np.ndarray:
        """Return a b^T of codes [m, D] and [n, D] as an array [m, n]."""
        import torch

        out = self._room[: len(a) * len(b)].view(len(a), len(b))
        if self._through is not None:
            out.copy_(torch.mm(a.to(self._through), b.to(self._through).T))
        else:
            (torch._int_mm if a.dtype == torch.int8 else torch.mm)(a, b.T, out=out)
        return out.numpy()


def work(job: Job, schedule: Schedule, seen: np.ndarray) -> None:
    """Take tiles until none is left; seen [query blocks] counts the points that a block has met."""
    import torch

    torch.set_num_threads(1)
    multiply = Products(job)
    never = np.full(int(np.diff(job.bounds).max()), NEVER, np.int32)
    try:
        while (tile := schedule.take()) is not None:
            fill(job, tile, multiply, never, seen)
            schedule.give(tile)
    except BaseException:
        schedule.stop()
        raise


def fill(job: Job, tile: tuple[int, int], multiply: Products, never: np.ndarray, seen: np.ndarray) -> None:
    """Multiply the codes of a tile and offer the squared distances to the lists."""
    from kat.neighbors import kernels

    (a, b), both = tile, job.symmetric and tile[0] != tile[1]
    first, end = job.query_bounds[a : a + 2].tolist()
    start, stop = job.bounds[b : b + 2].tolist()
    products = multiply(job.query_codes[first:end], job.codes[start:stop])
    limits = job.lists.limits[start:stop] if both else never[: stop - start]
    seen[a] += stop - start
    if both:
        seen[b] += end - first
    ranks = rank(job, int(seen[a])), rank(job, int(seen[b])) if both else 0
    kernels.scan(
        products=products,
        lists=job.lists,
        search=job.search,
        first_row=first,
        first_column=start,
        limits=limits,
        symmetric=both,
        itself=job.itself,
        ranks=ranks,
    )


def rank(job: Job, seen: int) -> int:
    """Return the rank among `seen` of N points that the k-th of all rarely exceeds (hypergeometric); 0: proven."""
    if job.strict:
        return 0
    share = min(1.0, seen / job.among)
    return math.ceil(job.k * share + SPREAD * math.sqrt(job.k * share * (1 - share)) + 3)


def fingerprint(job: Job) -> str:
    """Return the name of a search: its input and what the tiles depend on."""
    name = hashlib.blake2b(repr((job.k, job.lists.keys.shape, str(job.codes.dtype), job.itself)).encode())
    for part in (job.query.x, job.points.x, job.points.order, job.query_bounds, job.bounds):
        name.update(part.data)
    return name.hexdigest()


def write(path: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays under a name, so that a stop while saving leaves the earlier file."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        np.savez(file, allow_pickle=False, name=np.array(name), **arrays)
    os.replace(new, path)


def read(path: Path, name: str, arrays: dict[str, np.ndarray]) -> bool:
    """Fill arrays from a file of `write`; False where it belongs to another search or cannot be read."""
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as held:
            if str(held["name"]) != name:
                return False
            loaded = {key: held[key] for key in arrays}
    except Exception:  # a damaged file makes zipfile and NumPy raise whatever they meet: the search starts over
        return False
    if any(loaded[key].shape != array.shape for key, array in arrays.items()):
        return False
    for key, array in arrays.items():
        array[...] = loaded[key]
    return True
