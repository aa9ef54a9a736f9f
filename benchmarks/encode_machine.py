"""What bench_encode.py says of the machine: its names and versions, and how fast it multiplies bfloat16.

`python encode_machine.py THREADS` measures products for every line of input; several of them run at once.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPES = ((2048, 2048, 2048), (4096, 384, 1536))
"""Rows, inner and outer width of the products measured: a large one, and one of MiniLM's at 4,096 tokens."""
WINDOW = 0.4
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def header() -> str:
    """Hardware, date, commit and versions in one line."""
    versions = [f"{name} {version_of(name)}" for name in PACKAGES]
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    facts = [f"{cores()} cores of {processor()}", f"{datetime.date.today()}", load, f"commit {commit()}"]
    return ", ".join([*facts, f"Python {platform.python_version()}", *versions])


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's model, and which of the instructions that matter here it has."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    named = {key.strip(): value.strip() for key, value in lines.items()}
    has = [flag for flag in FLAGS if flag in named.get("flags", "").split()]
    return f"{named.get('model name', platform.machine())} ({' '.join(has)})"


def commit() -> str:
    """The commit of this checkout, and whether kat's own files differ from it."""
    try:
        return git("rev-parse", "--short", "HEAD") + (
            " with changes in kat/" if git("status", "--short", "kat") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*words: str) -> str:
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()


class Peak:
    """The best rate of bfloat16 products seen so far: of one process a core at once, or of one with all threads."""

    def __init__(self):
        self.groups = [[start_products(1) for _ in range(cores())], [start_products(cores())]]
        self.best = 0.0

    def measure(self) -> None:
        """Measure both ways once; the processes wait idle in between."""
        for group in self.groups:
            for process in group:
                process.stdin.write("\n")
                process.stdin.flush()
            rates = [json.loads(process.stdout.readline()) for process in group]
            self.best = max(self.best, *np.sum(rates, axis=0))

    def close(self) -> None:
        for group in self.groups:
            for process in group:
                process.communicate()


def start_products(threads: int) -> subprocess.Popen:
    command = [sys.executable, __file__, str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def products() -> list[tuple[float, Callable[[], object]]]:
    """Operations and action of each kind of product; torch's own, and oneDNN's with weights laid out beforehand."""
    import torch

    actions = []
    for rows, inner, outer in SHAPES:
        x, w = torch.ones((rows, inner), dtype=torch.bfloat16), torch.ones((outer, inner), dtype=torch.bfloat16)
        out, operations = torch.empty((rows, outer), dtype=torch.bfloat16), 2.0 * rows * inner * outer
        actions.append((operations, lambda x=x, w=w, out=out: torch.mm(x, w.T, out=out)))
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            laid = torch.ops.mkldnn._reorder_linear_weight(w, rows)
            actions.append(
                (operations, lambda x=x, w=laid: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""))
            )
    return actions


def rate(operations: float, action: Callable[[], object]) -> float:
    """Operations per second of an action repeated for a while."""
    start, runs = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < WINDOW:
        action()
        runs += 1
    return runs * operations / taken


def main() -> None:
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    with torch.inference_mode():
        kinds = products()
        for _, action in kinds:
            action()
        for _ in sys.stdin:
            print(json.dumps([rate(*kind) for kind in kinds]), flush=True)


if __name__ == "__main__":
    main()
