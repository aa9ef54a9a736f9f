"""Packs of texts in worker processes, of this machine or a cluster: what goes to an executor and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import orjson
import torch

from kat.devices import cpu_cores, memory_bytes
from kat.embedding.engine import Engine, Settings
from kat.errors import ModelError
from kat.executors.base import Arrays, Compute, Executor, Facts, Launcher
from kat.executors.processes import Workers
from kat.models.digests import model_inputs
from kat.models.sources import resolve

FUNCTION = "kat.embedding.workers:make_worker"


def make_worker(settings: dict[str, Any], shared: Sequence[np.ndarray]) -> tuple[Compute, Facts]:
    """Load an engine and return what a worker computes, and what decides its bytes.

    A task is [ids end to end, lengths [B]], its result [vectors [B, D], what decides its bytes as JSON]. Raises
    ModelError if the weights here are not those that the settings name.
    """
    torch.set_num_threads(settings["threads"])
    engine = Engine(Settings(**settings["engine"]))
    if (expected := settings.get("digests")) and (own := _digests(engine.settings)) != expected:
        part = next(name for name in expected if own[name] != expected[name])
        what = "settings" if part.endswith("_settings") else "weights"
        raise ModelError(f"{engine.settings.model} has other {what} there than here. Copy the same model to it.")

    way = engine.facts() | {"threads": settings["threads"]}
    told = np.frombuffer(orjson.dumps(way), np.uint8)

    def compute(arrays: Arrays) -> Arrays:
        flat, lengths = arrays
        return [engine.vectors(np.split(flat, np.cumsum(lengths)[:-1])), told]

    return compute, way


def start_workers(settings: Settings, devices: list[str], threads: int) -> Executor:
    """Start a process for each device, all with the same engine, and wait until each has loaded it."""
    engines = [asdict(replace(settings, device=device)) for device in devices]
    return Workers(FUNCTION, [{"engine": engine, "threads": threads} for engine in engines], threads)


def start_remote(launcher: Launcher, settings: Settings) -> Executor:
    """Start workers on a cluster, each with the engine and the weights that this machine has."""
    device = launcher.device or settings.device
    values = {"engine": asdict(replace(settings, device=device)), "threads": launcher.threads}
    values["digests"] = _digests(settings)
    return launcher.start(FUNCTION, values, alike=True)


def _digests(settings: Settings) -> dict[str, str]:
    """Return the hashes of a model's weights and settings, as they are on this machine."""
    source = resolve(settings.model, allow_network=settings.allow_network)
    return {name: digest.compute() for name, digest in model_inputs(source).items()}


def pooled_packs(
    executor: Executor, packs: Iterable[tuple[int, list[np.ndarray]]]
) -> Iterator[tuple[int, np.ndarray, Facts]]:
    """Yield the number and the pooled vectors [B, D] of each numbered pack of token ids, in the order of their end.

    The third is what decided their bytes: the kind of the worker that computed them.

    Raises WorkerError if a worker ends and its packs cannot be given out again, and whatever error one meets; the
    workers are closed then.
    """
    for number, (vectors, way) in executor.run((number, _flat(tokens)) for number, tokens in packs):
        yield number, vectors, orjson.loads(way.tobytes())


def _flat(tokens: list[np.ndarray]) -> Arrays:
    """Two arrays instead of thousands: each costs a header on its way."""
    return [np.concatenate(tokens), np.fromiter(map(len, tokens), np.int64, len(tokens))]


def worker_devices(engine: Engine, processes: int | None) -> tuple[list[str], int]:
    """Return a device for each worker, and the threads of each: one a GPU, else one a core while memory lasts."""
    import torch

    kind = engine.device.type
    if kind == "cuda":
        count = torch.cuda.device_count() if engine.settings.device in ("auto", "cuda") else 1
        return [f"cuda:{i}" for i in range(min(processes or count, count))], 1
    if kind != "cpu":
        return [kind], 1
    cores = cpu_cores()
    if processes is None:
        # float32 weights, and what Python and torch take themselves.
        models = _memory() // (4 * engine.loaded.meta["parameters"] + 200_000_000)
        processes = max(1, min(cores, int(models)))
    return ["cpu"] * processes, max(1, cores // processes)


def _memory() -> int:
    """Bytes that workers' models may fill: a quarter of what this machine, or its container, has."""
    return memory_bytes() // 4
