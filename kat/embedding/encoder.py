"""Texts to unit vectors. A text's vector does not depend on its batch, its place or its neighbours' lengths."""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.config import EmbedOptions
from kat.devices import cpu_cores, memory_bytes
from kat.embedding.engine import Engine, Settings
from kat.embedding.pieces import Reading, read_texts
from kat.embedding.progress import Progress
from kat.embedding.tokenize import Tokens, render
from kat.errors import InputError, OptionError
from kat.executors.processes import Workers
from kat.models.sources import resolve
from kat.packing.budget import packs, windows
from kat.records import Embeddings, Prefix

if TYPE_CHECKING:
    from kat.data.prompts import PromptFile
    from kat.embedding.checkpoint import Unfinished

WORTHWHILE = 2e12
"""Floating point operations from which starting worker processes pays: seconds of work (MiniLM: 94,000 tokens)."""

_kept: dict[tuple, Encoder] = {}


def encode(
    inputs: Iterable[str | Prefix], model: str = "minilm", *, device: str = "auto", progress: bool = False, **options
) -> Embeddings:
    """Embed strings or prefixes; rows in input order. Model and workers stay loaded for the next call like this one.

    `options` are the fields of `kat.config.EmbedOptions`. Ids are the prefixes' ids, or row numbers for strings.

    Raises InputError for no input or a text that is not valid Unicode, OptionError for an option out of range,
    ModelError for a model that cannot be found or loaded, WorkerError if a worker process dies.
    """
    if isinstance(inputs, str | bytes | Prefix) or not isinstance(inputs, Iterable):
        raise InputError(f"encode was given a {type(inputs).__name__}; expected a list of strings or of kat.Prefix.")
    return kept_encoder(replace(EmbedOptions(), model=model, **options), device).encode(inputs, progress=progress)


def kept_encoder(options: EmbedOptions, device: str) -> Encoder:
    """The encoder of the last call if its options were the same, else a new one in its place."""
    key = (options, device, _stamp(options))
    if key not in _kept:
        close_kept()
        _kept[key] = Encoder(options.model, device=device, **_fields(options, without="model"))
    return _kept[key]


def _stamp(options: EmbedOptions) -> tuple:
    """What tells a model's files from those of the same name that were saved over them."""
    path = resolve(options.source, allow_network=options.allow_network).path
    files = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in files)


def close_kept() -> None:
    """End the workers that `encode` keeps, and forget its model."""
    while _kept:
        _kept.popitem()[1].close()


atexit.register(close_kept)


class Encoder:
    """A model, and worker processes once there is enough to do, loaded from the first call to `close`.

    Takes the options of `encode`, and is a context manager: `with kat.Encoder("minilm") as encoder: …`.
    """

    def __init__(self, model: str = "minilm", *, device: str = "auto", **options: Any):
        self.options = replace(EmbedOptions(), model=model, **options)
        for name in ("batch_size", "processes"):
            if (value := getattr(self.options, name)) is not None and value < 1:
                raise OptionError(f"{name} is {value}; expected 1 or more.")
        o = self.options
        self._settings = Settings(o.source, device, o.precision, o.pooling, o.allow_network)
        self._here: Engine | None = None
        self._workers: Workers | None = None

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and let the model go. A later call loads them again."""
        if self._workers:
            self._workers.close()
        self._here = self._workers = None

    def encode(self, inputs: Iterable[str | Prefix], *, progress: bool = False) -> Embeddings:
        """Embed strings or prefixes, rows in input order: see `kat.encode`."""
        items = list(inputs)
        if not items:
            raise InputError("There is nothing to embed: no texts were given.")
        ids = [item.id if isinstance(item, Prefix) else str(i) for i, item in enumerate(items)]
        vectors = np.empty((len(items), self.engine.dimension), np.float32)
        counts = np.empty((len(items), 2), np.int32)
        with Progress(len(items), progress) as meter:
            for rows, texts in self.windows(items):
                reading = self.read(texts)
                plan = self.packs(reading)
                pooled = np.empty((len(reading.lengths), vectors.shape[1]), np.float32)
                for _ in self.compute(reading, range(len(plan)), pooled, meter):
                    pass
                self.combine(reading, pooled, vectors[rows], counts[rows], lambda row, a=rows.start: ids[a + row])
        return Embeddings(ids, vectors, counts[:, 0].copy(), counts[:, 1].copy(), self.meta())

    def encode_into(self, work: Unfinished, items: PromptFile, *, progress: bool = False) -> None:
        """Embed the items of a file into the arrays of `work`, leaving out what an earlier run did.

        Holds one window of texts in memory, and no vectors: those belong to files.
        """
        with Progress(len(items), progress) as meter:
            for number, (rows, texts) in enumerate(self.windows(items)):
                if work.is_whole(number, rows):
                    meter.skip(len(texts))
                    continue
                reading = self.read(texts)
                plan = self.packs(reading)
                pooled, left = work.begin(number, plan, len(reading.lengths))
                for n in self.compute(reading, left, pooled, meter):
                    work.note(number, n, plan[n])
                self.combine(reading, pooled, work.vectors[rows], work.lengths[rows], partial(_id, items, rows.start))
                work.finish(number, rows)

    def windows(self, items: Iterable[str | Prefix]) -> Iterator[tuple[slice, list[str]]]:
        """The texts that are read together, and the rows that they are."""
        start = 0
        for texts in windows(render(items, self.options.render, self.engine.loaded.tokenizer)):
            yield slice(start, start + len(texts)), texts
            start += len(texts)

    @property
    def engine(self) -> Engine:
        """The model in this process, loaded when it is first asked for."""
        if self._here is None:
            self._here = Engine(self._settings)
            self._limit = _limit(self._here, self.options)
            if why := self._here.unpacked:
                name = self._here.loaded.meta["architecture"]
                warnings.warn(f"{name} is read in padded batches, which is slower: {why}.", stacklevel=2)
        return self._here

    def meta(self) -> dict[str, Any]:
        """How the vectors are made."""
        here, options = self.engine, self.options
        made = {"pooling": here.pooling, "precision": here.precision, "max_tokens": self._limit}
        return here.loaded.meta | made | {"long_text": options.long_text, "render": options.render}

    def read(self, texts: Sequence[str]) -> Reading:
        """Tokenise one window of texts."""
        tokens = Tokens(self.engine.loaded.tokenizer, special=self.options.render == "plain")
        return read_texts(texts, tokens, self._limit, self.options.long_text)

    def packs(self, reading: Reading) -> list[np.ndarray]:
        """The pieces of each pack: a function of the texts and options, whoever computes them."""
        return packs(
            reading.lengths, self.engine.full_budget, self.options.batch_size, padded=bool(self.engine.unpacked)
        )

    def compute(
        self, reading: Reading, numbers: Sequence[int], pooled: np.ndarray, meter: Progress | None = None
    ) -> Iterator[int]:
        """Write the vectors of some packs into `pooled` [pieces, D]; gives each pack's number when it is done."""
        plan, lengths = self.packs(reading), reading.lengths
        if meter is not None:
            meter.window(reading, sum(int(lengths[plan[n]].sum()) for n in numbers))
        asked = ((n, [reading.piece(p) for p in plan[n]]) for n in numbers)
        workers = self._enough_for_workers(int(lengths.sum()))
        found = workers.run(asked) if workers else ((n, self.engine.vectors(tokens)) for n, tokens in asked)
        for number, vectors in found:
            pooled[plan[number]] = vectors
            if meter is not None:
                meter.advance(len(vectors), int(lengths[plan[number]].sum()))
            yield number

    def combine(
        self, reading: Reading, pooled: np.ndarray, vectors: np.ndarray, counts: np.ndarray, id_of: Callable[[int], str]
    ) -> None:
        """Pooled vectors of a window's pieces to unit vectors [N, D] and lengths [N, 2] of its texts.

        Raises InputError for a vector that holds NaN or infinity, naming the first text by `id_of` its row.
        """
        reading.combine(pooled, vectors)
        counts[:] = np.stack([reading.tokens, reading.lost], 1)
        bad = ~np.isfinite(vectors.sum(axis=1))
        if bad.any():
            raise InputError(
                f"The model gave no finite vector for {int(bad.sum()):,} texts, first id {id_of(int(np.argmax(bad)))}. "
                "Try --precision float32 --overwrite."
            )

    def _enough_for_workers(self, tokens: int) -> Workers | None:
        """The workers, started if need be; None where this process does the work itself.

        Decided by the texts alone, never by what happens to be running: the same input gives the same bytes.
        """
        devices, threads = worker_devices(self.engine, self.options.processes)
        if len(devices) < 2 or 2 * self.engine.multiplied * tokens < WORTHWHILE:
            return None
        if self._workers is None or not self._workers.pids:
            self._workers = Workers(self._settings, devices, threads)
        return self._workers


def worker_devices(engine: Engine, processes: int | None) -> tuple[list[str], int]:
    """A device for each worker process, and the threads of each: one a GPU, else one a core while memory lasts."""
    import torch

    kind = engine.device.type
    if kind == "cuda":
        there = torch.cuda.device_count() if engine.settings.device in ("auto", "cuda") else 1
        return [f"cuda:{i}" for i in range(min(processes or there, there))], 1
    if kind != "cpu":
        return [kind], 1
    cores = cpu_cores()
    if processes is None:
        copies = memory_bytes() // 4 // (4 * engine.loaded.meta["parameters"] + 200_000_000)
        processes = max(1, min(cores, int(copies)))
    return ["cpu"] * processes, max(1, cores // processes)


def _limit(engine: Engine, options: EmbedOptions) -> int:
    most = engine.loaded.most
    if options.max_tokens is None:
        return engine.loaded.limit
    if most and options.max_tokens > most:
        raise OptionError(f"max_tokens is {options.max_tokens}; the model has positions for {most}.")
    return options.max_tokens


def _id(items: Iterable[Prefix], start: int, row: int) -> str:
    """The id of an item of a file, read again for the sake of an error."""
    return next(islice(items, start + row, None)).id


def _fields(options: EmbedOptions, without: str) -> dict[str, Any]:
    return {k: v for k, v in vars(options).items() if k != without}
