"""Time, memory and recall of the exact neighbour search beside other libraries, on the same rows and threads.

Every method lives in a process of its own and is warmed up on a few rows; rounds are interleaved, so that other load
on the machine meets all alike. Prints a table in markdown: medians, ratios to kat, peak anonymous memory above the
loaded input and warmed-up libraries (RssAnon), and recall against float64 brute force on a sample.

    python benchmarks/bench_neighbors.py --embeddings rows.npy --n 28000 100000 --repeats 3
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

K = 50
WARM = 2000  # rows of the warm-up call
SAMPLE = 300  # rows whose neighbours are compared with brute force
LONG = 60.0  # seconds after which a method is not repeated


def kat_exact(x: np.ndarray) -> np.ndarray:
    """All of it: grouping copies, the search, and the two halves of the data for the noise bound."""
    import kat

    return kat.find_neighbors(x, K, metric="euclidean").indices


def faiss_flat(x: np.ndarray) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return without_self(index.search(x, K + 1)[1])


def faiss_best(x: np.ndarray) -> np.ndarray:
    """FAISS with the quickest of its settings on these rows, found at the warm-up, and the inner product."""
    import faiss

    def search() -> np.ndarray:
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        return without_self(index.search(x, K + 1)[1])

    if len(x) <= WARM:
        grid = [(q, d, r) for q in (512, 1024, 4096) for d in (512, 1024, 4096) for r in (10, 100)]
        faiss_settings(*min(grid, key=lambda setting: (faiss_settings(*setting), seconds(search))[1]))
    return search()


def faiss_settings(queries: int, rows: int, reservoir: int) -> None:
    """Block sizes of FAISS's products and the k from which it keeps reservoirs instead of heaps."""
    import faiss

    faiss.cvar.distance_compute_blas_query_bs = queries
    faiss.cvar.distance_compute_blas_database_bs = rows
    faiss.cvar.distance_compute_min_k_reservoir = reservoir


def sklearn_default(x: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=K).fit(x).kneighbors(return_distance=False)


def sklearn_cosine(x: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(x).kneighbors(return_distance=False)


def numpy_blocks(x: np.ndarray) -> np.ndarray:
    nearest = np.empty((len(x), K), np.int64)
    for start in range(0, len(x), 1024):
        products = x[start : start + 1024] @ x.T
        products[np.arange(len(products)), start + np.arange(len(products))] = -np.inf
        nearest[start : start + 1024] = np.argpartition(products, -K, axis=1)[:, -K:]
    return nearest


def hnswlib_graph(x: np.ndarray) -> np.ndarray:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=x.shape[1])
    index.init_index(len(x), M=16, ef_construction=100)
    index.set_ef(100)
    index.add_items(x, num_threads=threads())
    return without_self(index.knn_query(x, K + 1, num_threads=threads())[0])


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "kat.find_neighbors (exact)": kat_exact,
    "FAISS IndexFlatL2, default": faiss_flat,
    "FAISS IndexFlatIP, best setting": faiss_best,
    "scikit-learn NearestNeighbors, default": sklearn_default,
    "scikit-learn, brute cosine": sklearn_cosine,
    "NumPy blocks + argpartition": numpy_blocks,
    "hnswlib M=16, ef 100 (approximate)": hnswlib_graph,
}


def threads() -> int:
    """Threads that every method gets."""
    import torch

    return torch.get_num_threads()


def without_self(nearest: np.ndarray) -> np.ndarray:
    """Neighbours [N, K] from [N, K + 1] with the row itself taken out, or the last where it is not among them."""
    others = nearest != np.arange(len(nearest))[:, None]
    others[others.all(axis=1), -1] = False
    return nearest[others].reshape(len(nearest), -1)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def serve(method: str, path: str, n: int) -> None:
    """Child process: for every line of input run the method once, say how long it took and save what it found."""
    x = np.ascontiguousarray(np.load(path, mmap_mode="r")[:n])
    METHODS[method](x[:WARM])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        start = time.perf_counter()
        nearest = METHODS[method](x)
        taken = time.perf_counter() - start
        np.save(line.strip(), nearest)
        del nearest
        sys.stdout.write(f"{taken}\n")
        sys.stdout.flush()


def anonymous(pid: int) -> float:
    """Anonymous memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1e3


class Child:
    """A method in its process, with the times and the peak memory of its runs."""

    def __init__(self, method: str, path: str, n: int, folder: str) -> None:
        command = [sys.executable, __file__, "--serve", method, "--embeddings", path, "--n", str(n)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.output = f"{folder}/{list(METHODS).index(method)}.npy"
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{method} could not be started.")
        self.base, self.peak, self.times = anonymous(self.process.pid), 0.0, []

    def run(self) -> None:
        """One timed run; the parent samples the memory, so that no lock of the child hides a peak."""
        import threading

        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                self.peak = max(self.peak, anonymous(self.process.pid) - self.base)

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.process.stdin.write(self.output + "\n")
        self.process.stdin.flush()
        self.times.append(float(self.process.stdout.readline()))
        done.set()
        watcher.join()


def products_per_second(kind: str) -> float:
    """Operations per second of the best of some runs of torch's products of 2048 rows of 384 numbers."""
    import torch

    rows = torch.ones((2048, 384), dtype=getattr(torch, kind))
    multiply = torch._int_mm if kind == "int8" else torch.mm
    return 2 * 2048**2 * 384 / min(seconds(lambda: multiply(rows, rows.T)) for _ in range(30))


def recalls(x: np.ndarray, by_method: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of the found neighbours of sampled rows within the k-th exact distance (equal distances are right)."""
    wide, right = x.astype(np.float64), dict.fromkeys(by_method, 0)
    sample = np.random.default_rng(0).permutation(len(x))[:SAMPLE]
    for row in sample:
        distances = np.linalg.norm(wide - wide[row], axis=1)
        distances[row] = np.inf
        kth = np.partition(distances, K - 1)[K - 1] * (1 + 1e-9)
        for method, nearest in by_method.items():
            right[method] += int((distances[nearest[row]] <= kth).sum())
    return {method: count / (K * len(sample)) for method, count in right.items()}


def compare(path: str, n: int, repeats: int, methods: list[str]) -> None:
    """Print the table for the first n rows."""
    x = np.load(path, mmap_mode="r")[:n]
    with tempfile.TemporaryDirectory() as folder:
        children = {method: Child(method, path, n, folder) for method in methods}
        peaks = {"bfloat16": 0.0, "int8": 0.0}
        for _ in range(repeats):
            peaks = {kind: max(peak, products_per_second(kind)) for kind, peak in peaks.items()}
            for child in children.values():
                if not child.times or child.times[0] < LONG:
                    time.sleep(1.0)  # threads of the run before spin for a while
                    child.run()
        shares = recalls(np.asarray(x), {method: np.load(child.output) for method, child in children.items()})
        for child in children.values():
            child.process.communicate()
    show(x.shape, children, shares, peaks)


def show(shape: tuple[int, int], children: dict, shares: dict, peaks: dict) -> None:
    """Print one table; the first method is the measure of the others."""
    first = float(np.median(next(iter(children.values())).times))
    print(f"\n{shape[0]:,} x {shape[1]}, k = {K}, {threads()} threads\n")
    print("| method | median s | runs | times kat | recall | peak memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for method, child in children.items():
        median = float(np.median(child.times))
        numbers = f"{median:.2f} | {len(child.times)} | {median / first:.1f} | {shares[method]:.4f} | {child.peak:.0f}"
        print(f"| {method} | {numbers} |")
    rate = shape[0] ** 2 * shape[1] / first  # half of all pairs, two operations a number
    for kind, peak in peaks.items():
        share = f"kat does {rate / 1e9:.0f} G/s, {rate / peak:.0%} of that"
        print(f"\n{kind} products alone, measured in this run: {peak / 1e9:.0f} G operations/s; {share}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--n", type=int, nargs="+", default=[28000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="whose name begins so; kat always runs")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.embeddings, options.n[0])
    chosen = [name for name in METHODS if name.startswith(("kat", *options.methods))]
    for n in options.n:
        compare(options.embeddings, n, options.repeats, chosen)


if __name__ == "__main__":
    main()
