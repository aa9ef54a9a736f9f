"""What many openings take: `python benchmarks/bench_scale.py --rows 10000000`.

Neighbours of generated points are written as `kat density` writes them, and every step after the search is run on them
in a process of its own: seconds, peak memory, and bytes of memory a row. `--search 1000000` runs the exact search
itself on clustered unit vectors, stops it once and goes on, and compares rows with brute force in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

K = 50
COLUMNS = 32


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--search", type=int, default=0, help="Rows of 384 columns for the exact search, 0: none.")
    options.add_argument("--folder", type=Path, help="Where to work [default: a temporary folder].")
    options.add_argument("--step", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step](given)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        given.folder = Path(folder)
        for step in ["search"] if given.search else [name for name in STEPS if name != "search"]:
            measure(step, given)


def measure(step: str, given: argparse.Namespace) -> None:
    """Run a step in a process of its own and print its row."""
    rows = given.search or given.rows
    words = [__file__, "--step", step, "--rows", str(given.rows), "--search", str(given.search)]
    done = subprocess.run([sys.executable, *words, "--folder", str(given.folder)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{step}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    start, peak = told.pop("start"), told.pop("peak")
    print(
        f"| {step} | {rows:,} | {told.pop('seconds'):.1f} | {peak / 1e6:,.0f} | {(peak - start) / rows:,.0f} | "
        f"{', '.join(f'{name} {value}' for name, value in told.items())} |",
        flush=True,
    )


class Timed:
    """The seconds and the peak memory of a block, put beside what else is told of it."""

    def __enter__(self) -> dict:
        self.told: dict = {}
        self.start, self.begun = peak(), time.perf_counter()
        return self.told

    def __exit__(self, *_: object) -> None:
        self.told |= {"start": self.start, "seconds": time.perf_counter() - self.begun, "peak": peak()}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def neighbors_of(n: int):
    """Neighbours that could be: radii of a mixture of densities in 8 dimensions, others drawn at random."""
    from kat.records import Embeddings, Neighbors

    draw = np.random.default_rng(0)
    scale = np.exp(draw.normal(0, 0.3, n)).astype(np.float32)
    distances = np.empty((n, K), np.float32)
    indices = np.empty((n, K), np.int64)
    for start in range(0, n, 1 << 18):
        part = slice(start, min(start + (1 << 18), n))
        size = part.stop - part.start
        steps = draw.exponential(size=(size, K)).cumsum(1)
        distances[part] = (scale[part, None] * (steps / n) ** (1 / 8)).astype(np.float32)
        others = draw.integers(0, n - 1, (size, K))
        indices[part] = others + (others >= np.arange(part.start, part.stop)[:, None])
    ids = [f"{i:016x}" for i in range(n)]
    vectors = np.broadcast_to(np.float32(0), (n, COLUMNS))
    one = np.ones(n, np.int64)
    source = Embeddings(ids, vectors, None, None, {})
    return Neighbors(ids, indices, distances, distances, one, source=source)


def write(given: argparse.Namespace) -> dict:
    from kat.neighbors.storage import save_neighbors

    neighbors = neighbors_of(given.rows)
    with Timed() as told:
        save_neighbors(neighbors, given.folder)
        told["file MB"] = sum(f.stat().st_size for f in given.folder.iterdir()) // 10**6
    np.save(given.folder / "ids.npy", np.asarray([int(i, 16) for i in neighbors.ids], np.uint64))
    return told


def read_stored(folder: Path):
    from kat.records import Embeddings, Neighbors

    ids = [f"{i:016x}" for i in np.load(folder / "ids.npy").tolist()]
    distances = np.load(folder / "distances.npy", mmap_mode="r")
    indices = np.load(folder / "indices.npy", mmap_mode="r")
    source = Embeddings(ids, np.broadcast_to(np.float32(0), (len(ids), COLUMNS)), None, None, {})
    return Neighbors(ids, indices, distances, distances, np.load(folder / "multiplicity.npy"), source=source)


def density(given: argparse.Namespace) -> dict:
    from kat.density.estimators import estimate_density

    neighbors = read_stored(given.folder)
    with Timed() as told:
        found = estimate_density(neighbors, 20)
        np.save(given.folder / "log_density.npy", found.log_values)
    return told


def weigh(given: argparse.Namespace) -> dict:
    from kat.density.weights import weigh as weigh_density

    values = np.load(given.folder / "log_density.npy")
    with Timed() as told:
        weights = weigh_density(np.exp(values))
        np.save(given.folder / "weights.npy", weights.values)
        told["T"] = round(float(weights.temperature), 3)
    return told


def sample(given: argparse.Namespace) -> dict:
    from kat.density.sampling import draw_pass
    from kat.density.sampling import sample as draw

    weights = np.load(given.folder / "weights.npy")
    with Timed() as told:
        draw(weights, len(weights) // 10)
        draw_pass(weights, len(weights))
    return told


def search(given: argparse.Namespace) -> dict:
    from kat.neighbors import exact, tiles

    n = given.search
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(n // 100, 384)).astype(np.float32)
    x = centres[draw.integers(0, len(centres), n)]
    for start in range(0, n, 1 << 16):
        part = x[start : start + (1 << 16)]
        part += draw.normal(size=part.shape).astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    checkpoint = given.folder / "unfinished.npz"
    seen: list[float] = []

    def stop(done: int, total: int) -> None:
        if checkpoint.exists() and done > total // 5 and not seen:
            seen.append(done / total)
            raise KeyboardInterrupt

    with Timed() as told:
        try:
            exact.knn_self(x, 20, progress=stop, checkpoint=checkpoint)
        except KeyboardInterrupt:
            told["stopped at"] = f"{seen[0]:.0%}"
        begun = time.perf_counter()
        _, distances = exact.knn_self(x, 20, checkpoint=checkpoint)
        told["after the stop s" if seen else "once more s"] = round(time.perf_counter() - begun)
    rows = draw.choice(n, min(1000, n), replace=False)
    wrong = 0
    for row in rows:
        gaps = x - x[row]
        squares = np.einsum("nd,nd->n", gaps, gaps, dtype=np.float64)
        squares[row] = np.inf
        near = np.argpartition(squares, 20)[:20]
        wrong += not np.isclose(np.sort(squares[near]), distances[row].astype(np.float64) ** 2, rtol=1e-5).all()
    told["rows of 1,000 that brute force gives otherwise"] = wrong
    told["save every s"] = tiles.SAVE_SECONDS
    told["cores"] = os.cpu_count()
    return told


STEPS = {"write": write, "density": density, "weigh": weigh, "sample": sample, "search": search}

if __name__ == "__main__":
    main()
