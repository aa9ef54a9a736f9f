"""What many openings take: `python benchmarks/bench_scale.py --rows 10000000`.

Neighbours of generated points are stored as `kat density` stores them, and every command after the search runs on them
in a process of its own: seconds, peak memory, and bytes of memory a row. `--report` searches the neighbours instead
(clustered vectors, so up to a million or two) and makes the report too: it refuses neighbours that are not those of the
vectors. `--search 1000000` runs the exact search itself on clustered unit vectors, stops it once and goes on, and
compares rows with brute force in float64.
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
from collections.abc import Iterator
from pathlib import Path

import numpy as np

K = 50
COLUMNS = 32
PAIRS = 1.2
"""Pairs an opening."""
BLOCK = 1 << 16


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--report", action="store_true", help="Search the neighbours, and make the report.")
    options.add_argument("--search", type=int, default=0, help="Rows of 384 columns for the exact search, 0: none.")
    options.add_argument("--folder", type=Path, help="Where to work [default: a temporary folder].")
    options.add_argument("--step", choices=["generate", "search"], help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.step:
        print(json.dumps(generate(given) if given.step == "generate" else search(given)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        given.folder = Path(folder)
        if given.search:
            measure_search(given)
        else:
            measure_commands(given)


def measure_commands(given: argparse.Namespace) -> None:
    """Run every command after the search on generated neighbours, and print a row of each."""
    again = [__file__, "--step", "generate", "--rows", str(given.rows), "--folder", str(given.folder)]
    again += ["--report"] if given.report else []
    told = subprocess.run([sys.executable, *again], capture_output=True, text=True, check=False)
    if told.returncode:
        raise SystemExit(told.stderr[-3000:])
    print(f"generated: {told.stdout.splitlines()[-1]}", flush=True)
    folder, weights = given.folder, given.folder / "weights"
    budget = str(given.rows // 10)
    density = ["density", folder / "embeddings", "--out", weights]
    how = "search, density" if given.report else "density (of stored neighbours)"
    commands = {
        f"{how}, weights": density,
        "weigh-pairs": ["weigh-pairs", weights, "--pairs_path", folder / "pairs.jsonl"],
        "sample": ["sample", weights, "--budget", budget, "--out", folder / "sample.txt"],
        "density again, other weights": [*density, "--ess", "0.7", "--overwrite"],
    }
    if given.report:
        del commands["density again, other weights"]  # the pair weights would be older than the weights
        commands["report"] = ["report", weights, "--out", folder / "report.html"]
    print("| command | openings | s | peak MB | bytes an opening |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for name, words in commands.items():
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "kat.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{name}: {said[-3000:]}")
        peak, seconds = used.ru_maxrss * 1024, time.perf_counter() - begun
        print(f"| {name} | {given.rows:,} | {seconds:.0f} | {peak / 1e6:,.0f} | {peak / given.rows:,.0f} |", flush=True)


def measure_search(given: argparse.Namespace) -> None:
    """Run the exact search in a process of its own and print its row."""
    words = [__file__, "--step", "search", "--search", str(given.search), "--folder", str(given.folder)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"search: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    start, peak = told.pop("start"), told.pop("peak")
    print(
        f"| search | {given.search:,} | {told.pop('seconds'):.1f} | {peak / 1e6:,.0f} | "
        f"{(peak - start) / given.search:,.0f} | {', '.join(f'{name} {value}' for name, value in told.items())} |",
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


def generate(given: argparse.Namespace) -> dict:
    """Write embeddings, their neighbours as the search would leave them, and pairs."""
    import kat.neighbors.find as find
    from kat.config import DensityOptions, RunOptions
    from kat.stages.neighbors import find_neighbors

    folder, n = given.folder, given.rows
    (folder / "embeddings").mkdir()
    ids = write_pairs(folder / "pairs.jsonl", n)
    (folder / "embeddings" / "ids.json").write_text(json.dumps(ids))
    draw = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(
        folder / "embeddings" / "embeddings.npy", mode="w+", dtype=np.float32, shape=(n, COLUMNS)
    )
    centres = draw.normal(size=(n // 100, COLUMNS)).astype(np.float32) * (2 if given.report else 0)
    for start in range(0, n, BLOCK):
        block = draw.normal(size=(min(BLOCK, n - start), COLUMNS)).astype(np.float32)
        block += centres[draw.integers(0, len(centres), len(block))]
        vectors[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    if given.report:
        return {"MB": vectors.nbytes // 10**6}
    find.find_neighbors = lambda x, k, **_: neighbors_of(x, k)  # type: ignore[assignment]
    find_neighbors(folder / "embeddings", folder / "weights" / "neighbors", DensityOptions(), RunOptions())
    sizes = {path.name: path.stat().st_size // 10**6 for path in sorted(folder.rglob("*")) if path.is_file()}
    return {"MB": sizes}


def write_pairs(path: Path, n: int) -> list[str]:
    """Write about PAIRS pairs of each of n openings, 3 to 21 words long, a few near-copies of others; return their
    ids."""
    from kat.data.openings import opening_id

    draw = np.random.default_rng(1)
    words = np.asarray(["".join(draw.choice(list("aeioubcdfglmnprst"), draw.integers(2, 9))) for _ in range(50_000)])
    ids: list[str] = []
    with path.open("w") as file:
        for _ in range(0, n, BLOCK):
            for text in openings(words, min(BLOCK, n - len(ids)), draw):
                text = f"{text} {len(ids):x}"  # no two alike
                ids.append(opening_id(text))
                for i in range(1 + (len(ids) % 5 == 0)):
                    pair = {"prompt": text, "chosen": f"yes {i}", "rejected": "no", "source": f"s{len(ids) % 20}"}
                    file.write(json.dumps(pair) + "\n")
    return ids


def openings(words: np.ndarray, count: int, draw: np.random.Generator) -> Iterator[str]:
    """Yield texts of random words, every twentieth almost the one before it."""
    lengths = draw.integers(3, 22, count)
    drawn = words[draw.integers(0, len(words), lengths.sum())]
    before = ""
    for i, (end, length) in enumerate(zip(lengths.cumsum().tolist(), lengths.tolist(), strict=True)):
        before = before if i % 20 == 19 else " ".join(drawn[end - length : end])
        yield before


def neighbors_of(source, k: int):
    """Neighbours that could be: radii of a mixture of densities in 8 dimensions, others drawn at random."""
    from kat.records import Neighbors

    n = len(source)
    draw = np.random.default_rng(0)
    scale = np.exp(draw.normal(0, 0.3, n)).astype(np.float32)
    distances = np.empty((n, k), np.float32)
    indices = np.empty((n, k), np.int32)
    for start in range(0, n, BLOCK):
        part = slice(start, min(start + BLOCK, n))
        size = part.stop - part.start
        steps = draw.exponential(size=(size, k)).cumsum(1)
        distances[part] = (scale[part, None] * (steps / n) ** (1 / 8)).astype(np.float32)
        others = draw.integers(0, n - 1, (size, k))
        indices[part] = others + (others >= np.arange(part.start, part.stop)[:, None])
    return Neighbors(source.ids, indices, distances, distances, np.ones(n, np.int64), source=source)


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
    # Squares by products in float64, block by block: all gaps of 1,000 rows at once would take 3 TB.
    asked, least = x[rows].astype(np.float64), np.full((len(rows), 20), np.inf)
    for start in range(0, n, 1 << 14):
        block = x[start : start + (1 << 14)].astype(np.float64)
        squares = (asked**2).sum(1)[:, None] + (block**2).sum(1) - 2 * asked @ block.T
        own = rows - start
        here = (own >= 0) & (own < len(block))
        squares[here, own[here]] = np.inf
        least = np.partition(np.hstack([least, squares]), 19, axis=1)[:, :20]
    ours = distances[rows].astype(np.float64) ** 2
    wrong = int((~np.isclose(np.sort(least, axis=1), ours, rtol=1e-5)).any(1).sum())
    told["rows of 1,000 that brute force gives otherwise"] = wrong
    told["save every s"] = tiles.SAVE_SECONDS
    told["cores"] = os.cpu_count()
    return told


if __name__ == "__main__":
    main()
