"""An exact search as tasks for workers elsewhere: blocks of rows against blocks of rows, merged by this process.

Workers hold the codes alone, a byte a number. A task gets the limits that its rows have reached, and answers with the
candidates below them and the limits that it used. `exact.decide` proves what is merged with the vectors themselves, so
that no worker, order or number of blocks changes the result. Rows without a proof are asked for again with proven
limits: here if they are few, else by workers that are given the vectors too.

Bytes that move, of N rows in B blocks: N D codes to every machine, 4 N B limits out, some 8 N B (k / B + 4 sqrt(k / B)
+ 3) of candidates back.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kat.executors.base import Arrays, Compute, Facts, Launcher
from kat.neighbors import topk
from kat.neighbors.tiles import (
    SAVE_SECONDS,
    TILE,
    Job,
    Progress,
    cuts,
    fingerprint,
    in_parts,
    pairs_of,
    rank,
    read,
    run,
    write,
)

FUNCTION = "kat.neighbors.blocks:make_worker"
LEAST, MOST = 2048, 131_072  # rows of a block: tens of milliseconds, and lists of some 400 MB
BLOCKS = 12  # of 100,000 rows; ten times the rows are cut into three times the blocks: 38 of a million, 741 tasks
FEW = 1e12  # multiplications that this process makes itself rather than send for workers


class Side(NamedTuple):
    """One side of a search, positions in the order in which they are searched."""

    codes: np.ndarray  # int8 or float32 [P, D]
    norms: np.ndarray  # [P]
    order: np.ndarray  # int64 [P]


class Shared(NamedTuple):
    """What all workers are given."""

    vectors: np.ndarray  # float32 [N, D], or of no rows where they stay at home
    slack: np.ndarray  # float64 [P] of the queries: see `kernels.Lists`
    rounding: np.ndarray
    points: Side
    queries: Side


def make_worker(settings: dict[str, Any], shared: Sequence[np.ndarray]) -> tuple[Compute, Facts]:
    """Return what a worker computes: [bounds [4], limits of the rows, limits of the columns] to candidates.

    `shared` are the arrays of `Shared`, of the points, and of the queries if these are others. A result is, for the
    rows and then for the columns, [counts, keys, limits].
    """
    vectors, slack, rounding = shared[:3]
    held = Shared(vectors, slack, rounding, Side(*shared[3:6]), Side(*shared[-3:]))

    def on_device(task: Arrays) -> Arrays:
        first, end, start, stop = task[0].tolist()
        rows, columns = (first, end), (start, stop)
        results: Arrays = []
        for (mine, theirs), limits in zip([(rows, columns), (columns, rows)], task[1:], strict=False):
            own = settings | {"symmetric": False, "itself": settings["itself"] and mine == theirs}
            job, _, (part,) = _job_of(own, held, [np.asarray([*mine, *theirs]), limits])
            job = replace(job, lists=topk.topk_lists(job, settings["on"], None))
            results += _candidates(job, part, rank(job, theirs[1] - theirs[0]), np.asarray([theirs[0], 0]), 0)
        return results

    def compute(task: Arrays) -> Arrays:
        first, end, start, _ = task[0].tolist()
        job, tiles, parts = _job_of(settings, held, task)
        seen = run(job, None, None, tiles)
        offset = 0 if len(parts) == 1 else end - first  # where the columns begin
        moved = np.asarray([[start, 0], [first, start]][settings["symmetric"]])
        results: Arrays = []
        for rows in parts:
            block = int(np.searchsorted(job.query_bounds, rows.start))
            results += _candidates(job, rows, rank(job, int(seen[block])), moved, offset)
        return results

    return on_device if settings["on"] else compute, {}


def _job_of(settings: dict[str, Any], held: Shared, task: Arrays) -> tuple[Job, list[tuple[int, int]], list[slice]]:
    """Return the job of one task, its tiles, and the positions in it of the rows and, if they get any, the columns.

    Where both sides get candidates they are one array, rows before columns.
    """
    import torch

    from kat.neighbors import kernels

    first, end, start, stop = task[0].tolist()
    both = settings["symmetric"] and first != start
    spans = [slice(first, end), slice(start, stop)] if both else [slice(first, end)]
    mine = Side(*(_joined(array, spans) for array in held.queries))
    theirs = mine if settings["symmetric"] else Side(*(_joined(array, [slice(start, stop)]) for array in held.points))
    lists = kernels.empty_lists(settings["room"], settings["k"], *(_joined(a, spans) for a in held[1:3]))
    lists.limits[:] = np.concatenate(task[1:]) if both else task[1]
    bounds = [_cuts(span.stop - span.start) for span in spans]
    query_bounds = np.concatenate([bounds[0], *(b[1:] + bounds[0][-1] for b in bounds[1:])])
    rows = len(bounds[0]) - 1
    job = Job(
        query=kernels.Points(held.vectors, mine.order, mine.norms),
        points=kernels.Points(held.vectors, theirs.order, theirs.norms),
        query_codes=torch.from_numpy(mine.codes),
        codes=torch.from_numpy(theirs.codes),
        query_bounds=query_bounds,
        bounds=query_bounds if settings["symmetric"] else _cuts(stop - start),
        lists=lists,
        step=settings["step"],
        k=settings["k"],
        threads=settings["threads"],
        itself=settings["itself"],
        symmetric=settings["symmetric"],
        among=settings["among"],
        strict=settings["strict"],
    )
    columns = range(rows, len(query_bounds) - 1) if both else range(len(job.bounds) - 1)
    tiles = [(a, columns[(a + shift) % len(columns)]) for shift in range(len(columns)) for a in range(rows)]
    if settings["symmetric"] and not both:
        tiles = [(a, b) for a, b in tiles if b >= a]
    ends = np.cumsum([0, *(span.stop - span.start for span in spans)]).tolist()
    return job, tiles, [slice(a, z) for a, z in pairwise(ends)]


def _joined(array: np.ndarray, spans: list[slice]) -> np.ndarray:
    """Return some rows of an array, end to end, in memory of their own: what is shared must not be written to."""
    return np.concatenate([array[span] for span in spans])


def _cuts(rows: int) -> np.ndarray:
    return cuts(rows, TILE)


def _candidates(job: Job, rows: slice, rank_: int, moved: np.ndarray, offset: int) -> Arrays:
    """Return counts, keys and limits of some positions of a job; the positions in the keys are those of all points."""
    from kat.neighbors import merging

    lists = job.lists
    merging.settle(lists=lists, search=job.search, first=rows.start, last=rows.stop, rank=rank_)
    counts = lists.counts[rows].copy()
    starts = np.zeros(len(lists.counts) + 1, np.int64)
    starts[rows.start + 1 : rows.stop + 1] = np.cumsum(counts)
    keys = np.empty(int(counts.sum()), np.int64)
    merging.gather(lists=lists, first=rows.start, last=rows.stop, starts=starts, keys=keys)
    at = keys & 0xFFFFFFFF
    keys += np.where(at < offset, moved[0], moved[1] - offset) if offset else moved[0]
    return [counts, keys, lists.limits[rows].copy()]


def is_much(job: Job) -> bool:
    """Tell whether a search is worth sending for workers."""
    return len(job.query.order) * len(job.points.order) * job.codes.shape[1] > FEW


def fill(
    job: Job,
    launcher: Launcher,
    progress: Progress | None,
    checkpoint: str | os.PathLike | None,
    *,
    on: str | None = None,
) -> None:
    """Fill the lists of a job by the workers of a launcher. Goes on from `checkpoint`, where it holds this search.

    `on` names the device on which plain torch makes the products, None those of `tiles`.

    Raises what `Launcher.start` and `Executor.run` raise.
    """
    queries, points = edges(len(job.query.order)), edges(len(job.points.order))
    outline = replace(job, query_bounds=queries, bounds=points)
    tasks = pairs_of(outline)
    merge = _Merge(outline, tasks)
    saved = None if checkpoint is None else _Saved(Path(checkpoint), job, merge, queries)
    settings = {
        "k": job.k,
        "room": job.lists.keys.shape[1],
        "step": job.step,
        "threads": launcher.threads,
        "itself": job.itself,
        "symmetric": job.symmetric,
        "among": job.among,
        "strict": job.strict,
        "on": on,
    }
    with contextlib.closing(launcher.start(FUNCTION, settings, _shared(job))) as workers:
        for number, result in workers.run(merge.tasks()):
            merge.take_in(number, result)
            if progress is not None:
                progress(int(merge.done.sum()), len(tasks))
            if saved is not None:
                saved.when_due()
    if saved is not None:
        saved.path.unlink(missing_ok=True)


def edges(rows: int) -> np.ndarray:
    """Return bounds int64 [blocks + 1] of the blocks that tasks are made of: a function of the rows alone."""
    each = math.isqrt(rows * 100_000) // BLOCKS
    return cuts(rows, min(max(each, LEAST), MOST))


def _shared(job: Job) -> list[np.ndarray]:
    """Return the arrays of `Shared`. Proven limits alone need the vectors: where codes do not tell, they decide."""
    vectors = job.points.x if job.strict else np.empty((0, job.points.x.shape[1]), np.float32)
    sides = [(job.codes, job.points), *([] if job.symmetric else [(job.query_codes, job.query)])]
    arrays = [part for codes, points in sides for part in (codes.numpy(), points.norms, points.order)]
    return [vectors, job.lists.slack, job.lists.rounding, *arrays]


class _Merge:
    """The lists of a job, filled from the candidates of workers; `tasks` are (block of rows, block of columns)."""

    def __init__(self, job: Job, tasks: list[tuple[int, int]]):
        self.job, self.pairs = job, tasks
        self.done = np.zeros(len(tasks), bool)
        self.seen = np.zeros(len(job.query_bounds) - 1, np.int64)  # points that each block of queries has met

    def tasks(self) -> Iterator[tuple[int, Arrays]]:
        """Yield the tasks that are not done, with the limits as they are when it is asked for."""
        limits = self.job.lists.limits
        for number, pair in enumerate(self.pairs):
            if not self.done[number]:
                rows, columns = self._spans(pair)
                both = self.job.symmetric and rows != columns
                bounds = np.asarray([rows.start, rows.stop, columns.start, columns.stop])
                yield number, [bounds, limits[rows].copy(), *([limits[columns].copy()] if both else [])]

    def take_in(self, number: int, result: Arrays) -> None:
        """Merge the candidates of one task."""
        (a, b), (rows, columns) = self.pairs[number], self._spans(self.pairs[number])
        self._offer(a, rows, columns, result[:3])
        if len(result) > 3:
            self._offer(b, columns, rows, result[3:])
        self.done[number] = True

    def _offer(self, block: int, rows: slice, others: slice, gathered: Arrays) -> None:
        """Offer what a block of queries was given of the points `others` to its lists."""
        from kat.neighbors import merging

        counts, keys, limits = gathered
        self.seen[block] += others.stop - others.start
        level = rank(self.job, int(self.seen[block]))
        starts = np.concatenate([[0], np.cumsum(counts)])

        def part(start: int, stop: int) -> None:
            merging.take_in(
                lists=self.job.lists,
                search=self.job.search,
                first=rows.start + start,
                counts=counts[start:stop],
                keys=keys[starts[start] : starts[stop]],
                limits=limits[start:stop],
                rank=level,
            )

        in_parts(part, len(counts), self.job.threads)

    def _spans(self, pair: tuple[int, int]) -> tuple[slice, slice]:
        job = self.job
        return slice(*job.query_bounds[pair[0] :][:2].tolist()), slice(*job.bounds[pair[1] :][:2].tolist())


class _Saved:
    """The file that holds what is merged: written when it is due, and seldom enough to take a twentieth of the time."""

    def __init__(self, path: Path, job: Job, merge: _Merge, edges: np.ndarray):
        self.path = path
        self._name = f"{fingerprint(job)} in {len(edges) - 1} blocks"
        lists = job.lists
        self._arrays = {"counts": lists.counts, "full": lists.full, "limits": lists.limits, "keys": lists.keys}
        self._arrays |= {"seen": merge.seen, "done": merge.done}
        read(path, self._name, self._arrays)
        self._next = time.monotonic() + SAVE_SECONDS

    def when_due(self) -> None:
        """Write the file if it is time."""
        if (begun := time.monotonic()) < self._next:
            return
        write(self.path, self._name, self._arrays)
        now = time.monotonic()
        self._next = now + max(SAVE_SECONDS, 20 * (now - begun))
