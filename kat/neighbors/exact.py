"""Exact k nearest neighbours by Euclidean distance: proven candidates from 8-bit products, decided in float64.

1. Rows are centred and rounded to a grid, x - mean = step (code + error): the codes are int8, |error| is measured.
2. Tiles of products of codes give squared code distances, exact in int32. By the triangle inequality a distance
   differs from step times its code distance by at most step times the sum of the two error norms, the slack.
3. A tile serves its rows and its columns: each keeps the candidates below its limit. Limits come from the share of
   rows seen so far and are suggestions; `kernels.finish` proves them afterwards, and rows without a proof are
   searched again with proven limits only.
4. Candidates are decided by distances summed from float64 differences, ties by the smaller row index.
Where there are no fast 8-bit products (VNNI), and on a graphics device, codes are float32 and a further bound covers
the rounding of sums (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
"""

import math
import os
from dataclasses import dataclass, replace

import numpy as np

from kat.devices import compute_threads
from kat.executors.base import Launcher
from kat.neighbors import blocks, tiles, topk
from kat.neighbors.tiles import TILE, Job, Progress, cuts, in_parts

CODE_SQUARES = 2**31 - 2**14  # squared code distances stay below this
UNIT = 2.0**-24  # unit roundoff of float32
PRODUCTS = ("auto", "int8", "float32", "topk")


def knn_self(
    x: np.ndarray,
    k: int,
    *,
    rows: np.ndarray | None = None,
    candidates: int | None = None,
    device: str = "cpu",
    products: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike | None = None,
    launcher: Launcher | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest other rows of every row of x: indices int32 [N, k] and Euclidean distances float32 [N, k].

    Distances ascend; a row is left out of its own neighbours by row index; equal distances go to the smaller index.
    x: float32 [N, D], finite. rows: int64 [U] rows to search among, each once; what is returned for others is
    undefined. candidates: room of a row's list (speed and memory, not the result). products: "auto",
    "int8", "float32" or "topk" (plain torch, what other devices use). progress(done, total) is called per tile;
    checkpoint names a file from which a stopped search goes on; with a launcher its workers fill the tiles. Raises
    ValueError for a wrong x, k or option.
    """
    x = checked(x, "x")
    others = len(x if rows is None else rows) - 1
    if not 1 <= k <= others:
        raise ValueError(f"k must be between 1 and the number of other rows, {others}, not {k}.")
    kind = resolve(products, (launcher and launcher.device) or device, x)
    job = prepare(x, k, rows=rows, candidates=candidates, products=kind, tile=tile, threads=threads)
    return search(job, device=device, products=products, progress=progress, checkpoint=checkpoint, launcher=launcher)


def knn_query(
    queries: np.ndarray,
    x: np.ndarray,
    k: int,
    *,
    candidates: int | None = None,
    device: str = "cpu",
    products: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike | None = None,
    launcher: Launcher | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows of x [N, D] nearest to every query [M, D]: indices int32 [M, k], distances float32 [M, k].

    As `knn_self`, but no row is left out. Raises ValueError for wrong arrays, k or options.
    """
    queries, x = checked(queries, "queries"), checked(x, "x")
    if queries.shape[1] != x.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} columns, x has {x.shape[1]}.")
    if not 1 <= k <= len(x):
        raise ValueError(f"k must be between 1 and the number of rows, {len(x)}, not {k}.")
    kind = resolve(products, (launcher and launcher.device) or device, x)
    job = prepare(x, k, queries=queries, candidates=candidates, products=kind, tile=tile, threads=threads)
    launcher = launcher if blocks.is_much(job) else None
    return search(job, device=device, products=products, progress=progress, checkpoint=checkpoint, launcher=launcher)


def checked(x: np.ndarray, name: str) -> np.ndarray:
    """Return x as C-contiguous float32 [rows, columns] of finite numbers. Raises ValueError for other things."""
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype != np.float32 or 0 in x.shape:
        raise ValueError(f"{name} must be a float32 array of shape [rows, columns], not {x.dtype} {x.shape}.")
    if not (np.isfinite(x.max()) and np.isfinite(x.min())):
        raise ValueError(f"{name} holds numbers that are not finite.")
    return np.ascontiguousarray(x)


def resolve(products: str, device: str, x: np.ndarray) -> str:
    """Return the kind of codes, "int8" or "float32". Raises ValueError for unknown products."""
    if products not in PRODUCTS:
        raise ValueError(f"products must be one of {', '.join(PRODUCTS)}, not {products!r}.")
    if products == "auto":
        return "int8" if device == "cpu" and tiles.has_int8_products(x.shape[1]) else "float32"
    return "float32" if products == "topk" else products


@dataclass(frozen=True)
class Grid:
    """How rows become codes: (x - mean) / step, rounded to whole numbers from -top to top where they are int8."""

    mean: np.ndarray  # float64 [D]
    step: float
    top: int
    rounded: bool  # int8 codes; float32 codes are not rounded


def prepare(
    x: np.ndarray,
    k: int,
    *,
    queries: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    candidates: int | None = None,
    products: str = "float32",
    tile: int = TILE,
    threads: int | None = None,
) -> Job:
    """Return the codes, limits and empty lists of a search among x [N, D], or among those of its `rows` [U].

    Without queries [M, D] the rows searched among are also those searched for. products: "int8" or "float32".
    """
    import torch

    from kat.neighbors import kernels

    threads = threads or compute_threads()
    grid = grid_of(x, queries, rounded=products == "int8")
    order, bounds = interleave(len(x if rows is None else rows), tile)
    order = order if rows is None else rows[order]
    codes, norms, errors = encode(x, order, grid, threads)
    points, point_codes = kernels.Points(x, order, norms), torch.from_numpy(codes)
    rounding = 0.0 if grid.rounded else (x.shape[1] + 16) * UNIT * 1.01
    if queries is None:
        query, query_codes, query_bounds, query_errors = points, point_codes, bounds, errors
    else:
        order, query_bounds = np.arange(len(queries)), cuts(len(queries), min(tile, -(-len(queries) // threads)))
        codes, norms, query_errors = encode(queries, order, grid, threads)
        query, query_codes = kernels.Points(queries, order, norms), torch.from_numpy(codes)
    lengths = np.sqrt(query.norms.astype(np.float64)) + math.sqrt(points.norms.max())
    room = max(candidates or 4 * k, 2 * k, k + 2 * kernels.SPARE)
    lists = kernels.empty_lists(room, k, query_errors + errors.max(), rounding * lengths**2)
    return Job(
        query=query,
        points=points,
        query_codes=query_codes,
        codes=point_codes,
        query_bounds=query_bounds,
        bounds=bounds,
        lists=lists,
        step=grid.step,
        k=k,
        threads=threads,
        itself=queries is None,
        symmetric=queries is None,
        among=len(points.order),
    )


def grid_of(x: np.ndarray, queries: np.ndarray | None, *, rounded: bool) -> Grid:
    """Return the finest grid that reaches all rows [N, D] and queries and keeps squared code distances in int32."""
    mean = x.mean(axis=0, dtype=np.float64)
    top = min(127, math.isqrt(CODE_SQUARES // (4 * x.shape[1])))
    reach = max(peak(x, mean), 0.0 if queries is None else peak(queries, mean))
    return Grid(mean, reach / top or 1.0, top, rounded)


def peak(x: np.ndarray, mean: np.ndarray) -> float:
    """Return the largest |x - mean| of an array [rows, columns]."""
    return float(max((x.max(axis=0) - mean).max(), (mean - x.min(axis=0)).max()))


def interleave(rows: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an order int64 [rows] whose blocks are systematic samples of all rows, and the blocks' bounds.

    Limits are guessed from the blocks met so far: those of a sample fit, those of a sorted file's beginning do not.
    """
    blocks = -(-rows // tile)
    parts = [np.arange(block, rows, blocks) for block in range(blocks)]
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


def encode(x: np.ndarray, order: np.ndarray, grid: Grid, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes [N, D rounded up to 4s] int8 or float32, squared norms [N] and error norms float64 [N], in steps."""
    from kat.neighbors import kernels

    width = -(-x.shape[1] // 4) * 4  # torch takes the transpose of a single column wrongly; zeros change nothing
    codes = np.zeros((len(order), width), np.int8 if grid.rounded else np.float32)
    norms, errors = np.empty(len(order), np.int32 if grid.rounded else np.float32), np.empty(len(order))

    def part(start: int, stop: int) -> None:
        kernels.encode(
            x=x,
            order=order,
            start=start,
            stop=stop,
            mean=grid.mean,
            step=grid.step,
            top=float(grid.top if grid.rounded else 0),
            codes=codes,
            norms=norms,
            residuals=errors,
        )

    in_parts(part, len(order), threads)
    return codes, norms, errors


def search(
    job: Job,
    *,
    device: str,
    products: str,
    progress: Progress | None,
    checkpoint: str | os.PathLike | None,
    launcher: Launcher | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Search with suggested limits, then again, with proven ones, for the rows that stayed without a proof.

    Suggested limits are tight because they are guesses, and cheap because nearly all of them hold; `decide` tells which
    do, so the result is exact however bad the guesses were.
    """
    rows = len(job.query.x)
    indices, distances = np.empty((rows, job.k), np.int32), np.empty((rows, job.k), np.float32)
    if launcher is not None:
        on = launcher.device if launcher.device == "cuda" else "cpu" if products == "topk" else None
        blocks.fill(job, launcher, progress, checkpoint, on=on)
    elif device != "cpu" or products == "topk":
        job = replace(job, lists=topk.topk_lists(job, device, progress))
    else:
        tiles.run(job, progress, checkpoint)
    doubtful = decide(job, indices, distances)
    if len(doubtful):
        again = narrow(job, doubtful)
        if launcher is not None and blocks.is_much(again):
            blocks.fill(again, launcher, None, None)
        else:
            tiles.run(again, None, None)
        if len(decide(again, indices, distances)):
            raise RuntimeError("Proven limits left rows without a proof: this is an error of the search.")
    return indices, distances


def decide(job: Job, indices: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Write the exact neighbours of every query position at its row; return the positions without a proof."""
    from kat.neighbors import kernels

    proven = np.zeros(len(job.query.order), bool)
    sequence = np.argsort(job.query.order)  # rows beside each other in the input often share neighbours

    def part(start: int, stop: int) -> None:
        kernels.finish(
            lists=job.lists,
            search=job.search,
            sequence=sequence[start:stop],
            indices=indices,
            distances=distances,
            proven=proven,
        )

    in_parts(part, len(proven), job.threads)
    return np.flatnonzero(~proven)


def narrow(job: Job, positions: np.ndarray) -> Job:
    """Return the job of some query positions [P] alone, with proven limits."""
    from kat.neighbors import kernels

    query = kernels.Points(job.query.x, job.query.order[positions], job.query.norms[positions])
    slack, rounding = job.lists.slack[positions], job.lists.rounding[positions]
    room = max(job.lists.keys.shape[1], 2 * job.k, job.k + 2 * kernels.SPARE)
    return replace(
        job,
        query=query,
        query_codes=job.query_codes[positions],
        query_bounds=cuts(len(positions), min(TILE, -(-len(positions) // job.threads))),
        lists=kernels.empty_lists(room, job.k, slack, rounding),
        symmetric=False,
        strict=True,
    )
