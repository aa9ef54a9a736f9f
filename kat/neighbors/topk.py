"""The nearest codes by plain torch, on a graphics device: candidates for `exact.decide`."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from kat.neighbors.tiles import Job, Progress

BLOCK, WIDTH = 4096, 16_384  # queries and points of a tile on a graphics device; the second a multiple of the first
STRETCH = 16  # points whose nearest is looked for first there

Columns = Callable[[], Iterable[tuple[int, Any, Any]]]


def topk_lists(job: Job, device: str, progress: Progress | None) -> Any:
    """Return lists of the nearest codes by plain torch on a device; the worst one kept is the limit to prove."""
    import torch

    from kat.neighbors import kernels

    if job.codes.dtype != torch.float32:
        raise ValueError("A graphics device needs float32 codes.")
    room = min(job.lists.keys.shape[1], len(job.points.order))
    lists = kernels.empty_lists(room, job.k, job.lists.slack, job.lists.rounding)
    blocks = range(0, len(job.query_codes), BLOCK)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # the rounding bound is that of float32, not of TF32
    try:
        columns = columns_on(job, device)
        for number, start in enumerate(blocks):
            values, positions = topk_block(job, slice(start, start + BLOCK), room, columns)
            fill_lists(lists, start, values, positions, len(job.points.order))
            if progress is not None:
                progress(number + 1, len(blocks))
    finally:
        torch.set_float32_matmul_precision(before)
    return lists


def columns_on(job: Job, device: str) -> Columns:
    """Return what gives the blocks of all points on a device: codes [n, D], norms [n], and the first one's position.

    They stay there if they take half of its free memory at most: every block of queries asks for all of them.
    """
    import torch

    def block(start: int) -> tuple[int, Any, Any]:
        part = slice(start, start + WIDTH)
        return start, job.codes[part].to(device), torch.from_numpy(job.points.norms[part]).to(device)

    starts = range(0, len(job.codes), WIDTH)
    room = torch.cuda.mem_get_info(device)[0] // 2 if device.startswith("cuda") else 0
    if device != "cpu" and job.codes.nbytes > room:
        return lambda: map(block, starts)
    held = [block(start) for start in starts]
    return lambda: held


def topk_block(job: Job, rows: slice, room: int, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Return squared code distances and positions [rows, room] of the nearest codes, ascending.

    The row itself is at infinity.
    """
    import torch

    best = nearest = codes = None
    for start, block, norms in columns():
        if codes is None:
            codes = job.query_codes[rows].to(block.device)
        # Without the queries' own norms, which change no row's order.
        values = torch.addmm(norms, codes, block.T, alpha=-2)
        own = rows.start - start
        if job.itself and 0 <= own < len(block):
            values[:, own : own + len(codes)].fill_diagonal_(torch.inf)
        near, at = smallest(values, min(room, len(block)))
        at += start
        if best is not None:
            near, order = torch.topk(
                torch.cat([best, near], 1), min(room, best.shape[1] + near.shape[1]), largest=False
            )
            at = torch.cat([nearest, at], 1).gather(1, order)
        best, nearest = near, at
    assert best is not None
    assert nearest is not None
    best += torch.from_numpy(job.query.norms[rows]).to(best.device)[:, None]
    return best.cpu().numpy(), nearest.cpu().numpy()


def smallest(values: Any, count: int) -> tuple[Any, Any]:
    """Return the smallest `count` of each row of values [m, n], ascending, and their columns.

    They lie in the `count` stretches with the smallest minima, which are looked for first: one pass over all values,
    where a choice among them takes several.
    """
    import torch

    if values.shape[1] % STRETCH or 4 * count * STRETCH > values.shape[1]:
        return torch.topk(values, count, dim=1, largest=False)
    stretches = values.unflatten(1, (-1, STRETCH))
    chosen = torch.topk(stretches.amin(2), count, dim=1, largest=False, sorted=False).indices
    some = stretches.gather(1, chosen[:, :, None].expand(-1, -1, STRETCH)).flatten(1)
    least, at = torch.topk(some, count, dim=1, largest=False)
    return least, chosen.gather(1, at // STRETCH) * STRETCH + at % STRETCH


def fill_lists(lists: Any, start: int, values: np.ndarray, positions: np.ndarray, rows: int) -> None:
    """Put the kept candidates [m, room] of query positions start.. into lists; whatever is missing lies above."""
    from kat.neighbors import kernels

    part = slice(start, start + len(values))
    present = np.isfinite(values)
    squares = np.where(present, np.clip(values, 0, kernels.BOUNDLESS), 0).astype(np.int64)
    lists.keys[part, : values.shape[1]] = squares << 32 | positions
    lists.counts[part] = present.sum(axis=1)
    lists.limits[part] = kernels.BOUNDLESS if values.shape[1] == rows else squares[:, -1] - 1
