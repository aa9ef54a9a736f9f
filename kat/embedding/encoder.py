"""Texts to unit vectors. A text's vector does not depend on its batch, its place or its neighbours' lengths."""

from __future__ import annotations

import atexit
import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.config import OF_FILES, EmbedOptions
from kat.data.in_memory import Rows, texts_in_memory
from kat.devices import torch_threads
from kat.embedding.blame import id_of_row, naming_texts
from kat.embedding.pieces import TextPieces, cut_into_pieces
from kat.embedding.progress import Progress
from kat.embedding.tokenize import BulkTokenizer, render
from kat.embedding.unread import UnreadTexts
from kat.errors import InputError, ModelError, OptionError
from kat.executors.base import IDENTITY
from kat.models.sources import resolve
from kat.packing.budget import packs, windows
from kat.parameters import with_options
from kat.records import Embeddings, Prefix

if TYPE_CHECKING:
    from kat.data.prompts import PromptFile
    from kat.embedding.boilerplate import WithoutBoilerplate
    from kat.embedding.checkpoint import EmbeddingCheckpoint
    from kat.embedding.engine import Engine
    from kat.executors.base import Executor, Facts, Launcher

WORTHWHILE = 2e12
"""Floating point operations from which starting worker processes pays: seconds of work (MiniLM: 94,000 tokens)."""

_cached: dict[tuple, Encoder] = {}
"""The encoder of the last call of `encode`, by its options, device and the state of its model's files."""


def encode(
    inputs: Rows,
    model: str = EmbedOptions.model,
    *,
    column: str | None = None,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> Embeddings:
    """Embed strings or prefixes; rows in input order. Model and workers stay loaded for the next call like this one.

    `inputs` are a list, a Series or the like; or, with the name of a `column`, a DataFrame of pandas or polars, a
    `datasets.Dataset`, a pyarrow.Table, a list of dicts or a dict of columns. `options` are the fields of
    `kat.config.EmbedOptions`. Ids are the prefixes' ids, or row numbers from 0 for strings.

    Raises InputError for no input, a table without `column`, or a text that is missing or not valid Unicode,
    OptionError for an unknown option or one out of range, ModelError for a model that cannot be found or loaded,
    WorkerError if a worker process dies.

    >>> kat.encode(["a prompt", "another one"], max_tokens=128)
    Embeddings(2 × 384, model minilm)
    """
    chosen = with_options(EmbedOptions(), {"model": model} | options, encode, OF_FILES)
    texts = texts_in_memory(inputs, column, "encode")
    return cached_encoder(chosen, device).encode(texts, progress=progress)


def cached_encoder(options: EmbedOptions, device: str) -> Encoder:
    """Return the encoder of the last call if its options were the same, else a new one in its place."""
    key = (options, device, _stamp(options))
    if key not in _cached:
        close_cached()  # one at a time: a model is most of a machine's memory
        _cached[key] = _new_encoder(options, device)
    return _cached[key]


@contextlib.contextmanager
def open_encoder(options: EmbedOptions, device: str, launcher: Launcher | None = None) -> Iterator[Encoder]:
    """Yield the cached encoder, or one whose workers are a launcher's, closed at the end."""
    if launcher is None:
        yield cached_encoder(options, device)
        return
    with _new_encoder(options, device, launcher) as encoder:
        yield encoder


def _new_encoder(options: EmbedOptions, device: str, launcher: Launcher | None = None) -> Encoder:
    fields = {name: value for name, value in vars(options).items() if name not in ("model", *OF_FILES)}
    return Encoder(options.model, device=device, launcher=launcher, **fields)


def _stamp(options: EmbedOptions) -> tuple:
    """Return what tells a model's files from those of the same name that were saved over them."""
    path = resolve(options.source, allow_network=options.allow_network).path
    files = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in files)


def close_cached() -> None:
    """End the workers that `encode` keeps, and let its model go."""
    while _cached:
        _cached.popitem()[1].close()


atexit.register(close_cached)


class Encoder:
    """A model, and worker processes once there is enough to do, loaded from the first call to `close`.
    Takes the options of `encode`. With a `launcher` the workers are a cluster's.

    >>> with kat.Encoder("minilm", max_tokens=64) as encoder:
    ...     encoder.encode(["one text"])
    Embeddings(1 × 384, model minilm)
    """

    def __init__(
        self, model: str = EmbedOptions.model, *, device: str = "auto", launcher: Launcher | None = None, **options: Any
    ):
        self.options = with_options(EmbedOptions(), {"model": model} | options, Encoder, OF_FILES)
        for name in ("batch_size", "processes"):
            if (value := getattr(self.options, name)) is not None and value < 1:
                raise OptionError(f"{name} is {value}; expected 1 or more.")
        self.device = device
        self._engine: Engine | None = None
        self._workers: Executor | None = None
        self._launcher = launcher
        self.used_ways: list[Facts] = []
        """The kinds of a launcher's workers that have computed something, for `encode_into` since it began."""

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and let the model go. A later call loads them again."""
        if self._workers is not None:
            self._workers.close()
        self._engine = self._workers = None

    def encode(self, inputs: Rows, *, column: str | None = None, progress: bool = False) -> Embeddings:
        """Embed strings or prefixes, rows in input order: see `kat.encode`."""
        items = texts_in_memory(inputs, column, "encode")
        if not items:
            raise InputError("There is nothing to embed: no texts were given.")
        ids = [item.id if isinstance(item, Prefix) else str(i) for i, item in enumerate(items)]
        vectors = np.empty((len(items), self.engine.dimension), np.float32)
        counts = np.empty((len(items), 2), np.int32)
        unread = self._unread(len(items))
        with Progress(len(items), progress) as meter:
            for rows, texts in self.windows(items):
                pieces = self.tokenize(texts)
                unread.add(texts, pieces.readings)
                pooled = np.empty((len(pieces.lengths), vectors.shape[1]), np.float32)
                plan = self.packs(pieces)
                with naming_texts(pieces, plan, ids[rows].__getitem__):
                    for _ in self.compute(pieces, range(len(plan)), pooled, meter):
                        pass
                self.combine(pieces, pooled, vectors[rows], counts[rows], ids[rows].__getitem__)
        unread.finish(counts[:, 1], self._limit)
        meta = self.meta() | ({"unread": facts} if (facts := unread.facts()) else {})
        return Embeddings(ids, vectors, counts[:, 0].copy(), counts[:, 1].copy(), meta)

    def encode_into(
        self, checkpoint: EmbeddingCheckpoint, items: PromptFile | WithoutBoilerplate, *, progress: bool = False
    ) -> dict[str, Any]:
        """Embed the items of a file into the arrays of a checkpoint, leaving out what an earlier run did.

        Holds one window of texts in memory, and no vectors: those belong to files. Returns the facts of
        `UnreadTexts`: what the model could not read.
        """
        unread, self.used_ways = self._unread(len(items)), []
        with Progress(len(items), progress) as meter:
            for number, (rows, texts) in enumerate(self.windows(items)):
                if checkpoint.is_complete(number, rows):
                    meter.skip(len(texts))
                    unread.add(texts, self.tokenize(texts).readings)  # counts of all texts, whoever embedded them
                    continue
                pieces = self.tokenize(texts)
                unread.add(texts, pieces.readings)
                plan = self.packs(pieces)
                pooled, left = checkpoint.begin_window(number, plan, len(pieces.lengths))
                id_of = partial(id_of_row, items, rows.start)
                with naming_texts(pieces, plan, id_of):
                    for pack in self.compute(pieces, left, pooled, meter):
                        checkpoint.computed_by(self.used_ways)
                        checkpoint.pack_done(number, pack, plan[pack])
                self.combine(pieces, pooled, checkpoint.vectors[rows], checkpoint.lengths[rows], id_of)
                checkpoint.complete_window(number, rows)
        unread.finish()
        return unread.facts()

    def windows(self, items: Iterable[str | Prefix]) -> Iterator[tuple[slice, list[str]]]:
        """Yield the texts that are read together, and the rows that they are."""
        start = 0
        for texts in windows(render(self._parts(items), self.options.render, self.engine.loaded.tokenizer)):
            yield slice(start, start + len(texts)), texts
            start += len(texts)

    def _parts(self, items: Iterable[str | Prefix]) -> Iterator[str | Prefix]:
        """What is read of each conversation."""
        return (item.part(self.options.text) if isinstance(item, Prefix) else item for item in items)

    @property
    def engine(self) -> Engine:
        """Return the model in this process, loaded when it is first asked for."""
        if self._engine is None:
            from kat.embedding.engine import Engine, Settings, left_out, limit_of

            options = self.options
            settings = Settings(
                model=options.source,
                device=self.device if self._launcher is None else "cpu",  # workers have the devices
                precision=options.precision,
                pooling=options.pooling,
                allow_network=options.allow_network,
                prompt_name=options.prompt,
            )
            self._engine = Engine(settings)
            self._limit = limit_of(self._engine, options)
            for note in (*self._engine.loaded.notes, *left_out(self._engine, options)):
                warnings.warn(note, stacklevel=2)
            if why := self._engine.unpacked:
                name = self._engine.loaded.meta["architecture"]
                warnings.warn(f"{name} is read in padded batches, which is slower: {why}.", stacklevel=2)
        return self._engine

    @property
    def ways(self) -> list[Facts]:
        """Return how vectors are computed, as far as their bytes depend on it: one way, or those of mixed workers."""
        if self._launcher is None:
            return [self.engine.facts()]
        ways: list[Facts] = []
        for facts in (self._workers or self._crew()).facts:
            own = {name: value for name, value in facts.items() if name not in IDENTITY}
            if own not in ways:
                ways.append(own)
        return ways

    def _crew(self) -> Executor:
        """The workers of the launcher, started when they are first asked for."""
        from kat.embedding import workers

        assert self._launcher is not None
        if self._workers is None or not self._workers.count:  # an error closes them
            self._workers = workers.start_remote(self._launcher, self.engine.settings)
        return self._workers

    def meta(self) -> dict[str, Any]:
        """Return the model's facts and how the vectors are made."""
        engine, options = self.engine, self.options
        facts = {"pooling": engine.pooling, "precision": self.ways[0]["precision"], "max_tokens": self._limit}
        sentence = engine.loaded.sentence
        facts |= {"long_text": options.long_text, "render": options.render}
        return engine.loaded.meta | facts | (sentence.reading(options.prompt) if sentence else {})

    def tokenize(self, texts: Sequence[str]) -> TextPieces:
        """Tokenise one window of texts. Raises ModelError for a token that the model has no vector for."""
        loaded, plain = self.engine.loaded, self.options.render == "plain"
        tokenizer = BulkTokenizer(loaded.tokenizer, special=plain, prompt=self.engine.prompt)
        pieces = cut_into_pieces(texts, tokenizer, self._limit, self.options.long_text)
        if (largest := int(pieces.flat.max())) >= loaded.vocabulary:
            raise ModelError(
                f"The tokenizer of {loaded.meta['name']} gives token {largest} "
                f"({loaded.tokenizer.convert_ids_to_tokens(largest)!r}), and the model's table has "
                f"{loaded.vocabulary:,} rows: one of them is another model's."
            )
        return pieces

    def _unread(self, texts: int) -> UnreadTexts:
        return UnreadTexts(texts, self.engine.loaded.meta["name"], self.options.max_unknown)

    def packs(self, pieces: TextPieces) -> list[np.ndarray]:
        """Return the pieces of each pack: a function of the texts and options, whoever computes them."""
        way = self.ways[0]
        return packs(pieces.lengths, way["budget"], self.options.batch_size, padded=way["padded"])

    def compute(
        self, pieces: TextPieces, numbers: Sequence[int], pooled: np.ndarray, meter: Progress | None = None
    ) -> Iterator[int]:
        """Write the vectors of some packs into `pooled` [pieces, D]; yield each pack's number when it is done."""
        plan, lengths = self.packs(pieces), pieces.lengths
        if meter is not None:
            meter.window(pieces, sum(int(lengths[plan[n]].sum()) for n in numbers))
        tokens = ((n, [pieces.piece(p) for p in plan[n]]) for n in numbers)
        for number, vectors in self._pooled_packs(tokens, int(lengths.sum())):
            pooled[plan[number]] = vectors
            if meter is not None:
                meter.advance(len(vectors), int(lengths[plan[number]].sum()))
            yield number

    def combine(
        self,
        pieces: TextPieces,
        pooled: np.ndarray,
        vectors: np.ndarray,
        counts: np.ndarray,
        id_of: Callable[[int], str],
    ) -> None:
        """Write unit vectors [N, D] and lengths [N, 2] of a window's texts, made of its pieces' pooled vectors.

        Raises InputError for a vector that holds NaN or infinity, naming the first text by `id_of` its row.
        """
        pieces.combine(pooled, vectors)
        counts[:] = np.stack([pieces.tokens, pieces.lost], 1)
        bad = ~np.isfinite(vectors.sum(axis=1))
        if bad.any():
            raise InputError(
                f"The model gave no finite vector for {int(bad.sum()):,} texts, first id {id_of(int(np.argmax(bad)))}. "
                "Try --precision float32 --overwrite."
            )

    def _pooled_packs(
        self, packs: Iterator[tuple[int, list[np.ndarray]]], tokens: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number and the pooled vectors [B, D] of each pack of a window that holds so many tokens.

        Who computes is decided by the texts alone, never by what happens to be running: threads round otherwise than
        one does, and the same input gives the same bytes.
        """
        from kat.embedding import workers

        little = 2 * self.engine.multiplied * tokens < WORTHWHILE
        if self._launcher is not None:
            own, crew = self.engine.facts(), self._crew()
            if not little or any({**own, "threads": way["threads"]} != way for way in self.ways):
                for number, vectors, way in workers.pooled_packs(crew, packs):
                    self._use(way)
                    yield number, vectors
                return
            self._use(self.ways[0])
        devices, threads = workers.worker_devices(self.engine, self.options.processes)
        if little or len(devices) < 2 or self._launcher is not None:
            for number, pieces in packs:
                with torch_threads():
                    vectors = self.engine.vectors(pieces)
                yield number, vectors
            return
        if self._workers is None or not self._workers.count:  # an error closes them
            self._workers = workers.start_workers(self.engine.settings, devices, threads)
        for number, vectors, _ in workers.pooled_packs(self._workers, packs):
            yield number, vectors

    def _use(self, way: Facts) -> None:
        if way not in self.used_ways:
            self.used_ways.append(way)
