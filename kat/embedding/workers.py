"""Packs of texts in worker processes: what goes to an executor and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from kat.embedding.engine import Engine, Settings
from kat.executors.base import Arrays, Executor
from kat.executors.processes import Workers

FUNCTION = "kat.embedding.workers:make_worker"


def make_worker(settings: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    """Load an engine and return what a worker computes: [ids end to end, lengths [B]] to [vectors [B, D]]."""
    torch.set_num_threads(settings["threads"])
    engine = Engine(Settings(**settings["engine"]))

    def compute(arrays: Arrays) -> Arrays:
        flat, lengths = arrays
        return [engine.vectors(np.split(flat, np.cumsum(lengths)[:-1]))]

    return compute


def start_workers(settings: Settings, devices: list[str], threads: int) -> Executor:
    """Start a process for each device, all with the same engine, and wait until each has loaded it."""
    engines = [asdict(replace(settings, device=device)) for device in devices]
    return Workers(FUNCTION, [{"engine": engine, "threads": threads} for engine in engines], threads)


def pooled_packs(executor: Executor, packs: Iterable[tuple[int, list[np.ndarray]]]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the pooled vectors [B, D] of each numbered pack of token ids, in the order of their end.

    Raises WorkerError if a worker ends, and whatever error one meets; the workers are closed then.
    """
    for number, (vectors,) in executor.run((number, _flat(tokens)) for number, tokens in packs):
        yield number, vectors


def _flat(tokens: list[np.ndarray]) -> Arrays:
    """Two arrays instead of thousands: each costs a header on its way."""
    return [np.concatenate(tokens), np.fromiter(map(len, tokens), np.int64, len(tokens))]
