"""A process that compiles the kernels and one that reads them from the cache give the same bytes."""

CODE = """
import hashlib
import numpy as np
from kat.neighbors.find import find_neighbors
from kat.packing import kernels

rng = np.random.default_rng(0)
scores = (3 * rng.normal(size=(4, 12, 48, 48))).astype(np.float32)
words = (scores.view(np.uint32) >> 16).astype(np.uint16)
totals = np.empty((4, 12, 48), np.float32)
kernels.exponentials(words, np.array([48, 40, 37, 44]), False, 96, totals)
x, half = rng.normal(size=(64, 384)).astype(np.float32), words.reshape(-1, 384)[:64].copy()
weight, normed, bf16 = np.ones(384, np.float32), np.empty_like(x), np.empty(x.shape, np.uint16)
kernels.norm_of_sum(x, half, weight, weight, np.float32(1e-5), True, normed, bf16)
found = find_neighbors(rng.normal(size=(600, 37)).astype(np.float32), k=10)
for array in (words, totals, normed, bf16, found.indices, found.distances):
    print(hashlib.sha256(array.tobytes()).hexdigest())
"""


def test_compiled_and_cached_agree(python, tmp_path):
    cold, warm = (python("-c", CODE, env={"NUMBA_CACHE_DIR": str(tmp_path / "cache")}) for _ in range(2))
    assert cold.rc == warm.rc == 0, cold.stderr + warm.stderr
    assert cold.stdout.splitlines() == warm.stdout.splitlines()
    assert len(cold.stdout.splitlines()) == 6
    assert list((tmp_path / "cache").rglob("*.nbc"))  # there was something to read
