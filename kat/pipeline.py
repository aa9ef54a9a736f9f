"""Pairs → weights in one call and without files: the numbers of `kat run` and `kat weigh-pairs`, as records."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.array_records import ArrayRecord, as_frame, name_of, number, span
from kat.config import DensityOptions, EmbedOptions, ReadOptions, RunOptions
from kat.data.columns import SOURCE
from kat.data.in_memory import Rows, checked_pairs
from kat.data.openings import collect_openings
from kat.data.pairs import PairReader, PairStats
from kat.density.estimators import estimate_density
from kat.density.weights import Weights, weigh
from kat.embedding.boilerplate import choose_boilerplate
from kat.embedding.encoder import cached_encoder
from kat.errors import InputError, OptionError
from kat.inputs import Inputs
from kat.neighbors.find import find_neighbors
from kat.neighbors.storage import STORED_NEIGHBORS
from kat.pair_config import PairOptions
from kat.parameters import check_keywords, keywords_of
from kat.records import Density, Embeddings, Neighbors, Pair, Prefix
from kat.terminal import note

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa
    from matplotlib.axes import Axes

    from kat.pair_weights.storage import PairWeights


@dataclass(frozen=True, eq=False, repr=False)
class WeighedPairs(ArrayRecord):
    """What `kat.run` returns: of N openings a prefix, an embedding, neighbours, a density and a weight, in row order.

    `pair_weights` has a row for every pair, None if they were not asked for. `stats` says what the reader of the pairs
    met, and `boilerplate` what most conversations share and was left out of what is embedded.

    >>> weighed = kat.run("pairs.jsonl")
    >>> weighed
    WeighedPairs(300 pairs, 167 openings, model minilm, k 20, ESS 69.0%, w 0.0606 … 2.9)
    >>> rarest = int(np.argmax(weighed.weights))
    >>> weighed.prefixes[rarest].id == weighed.weights.ids[rarest]
    True
    """

    prefixes: Sequence[Prefix]
    embeddings: Embeddings
    neighbors: Neighbors
    density: Density
    weights: Weights
    pair_weights: PairWeights | None
    stats: PairStats
    boilerplate: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.weights)

    def _facts(self) -> Iterator[str]:
        yield number(self.stats.pairs, "pair")
        yield number(len(self), "opening")
        yield f"model {name_of(self.embeddings.meta.get('name', 'unknown'))}"
        yield f"k {self.density.k}"
        yield f"ESS {self.weights.ess_share:.1%}"
        yield f"w {span(self.weights.values)}"
        if self.pair_weights is not None:
            v = self.pair_weights.v
            yield f"v {span(v[v == v])}"

    def to_arrow(self) -> pa.Table:
        """Return the openings as a pyarrow.Table: id, opening (its text), weight, log_density."""
        table = self.weights.to_arrow()
        return table.add_column(1, "opening", [[one.opening for one in self.prefixes]])

    def to_pandas(self) -> pandas.DataFrame:
        """Return `to_arrow` as a pandas.DataFrame. Raises MissingExtraError without pandas."""
        return as_frame(self.to_arrow())

    def plot(self) -> Axes:
        """Draw the openings on the first two principal components of their vectors, coloured by the logarithm of their
        weights; return matplotlib's axes. Raises MissingExtraError without matplotlib.
        """
        from kat.plots import plane

        return plane(self.embeddings.vectors, repr(self), np.log10(self.weights.values), "log₁₀ weight")


def run(
    pairs: Inputs | Rows | Iterable[Pair],
    model: str = EmbedOptions.model,
    *,
    pair_weights: bool | PairOptions = False,
    reading: ReadOptions | None = None,
    max_bad_rows: int | str = RunOptions.max_bad_rows,
    device: str = RunOptions.device,
    progress: bool = False,
    **options: Any,
) -> WeighedPairs:
    """Weigh the openings of pairs, and with `pair_weights` the pairs too: what `kat run` and `kat weigh-pairs` compute.

    `pairs` are what `kat.read_pairs` takes, paths or rows in memory, read once; or its pairs. `options` are the fields
    of `kat.config.EmbedOptions` and `DensityOptions`, and beside `pair_weights` those of `PairOptions`; a `cap` is that
    of the openings' weights, and `pair_weights=PairOptions(cap=…)` sets the other. `reading` and `max_bad_rows` say how
    rows are read. Pairs are held in memory only where they are weighed.

    Raises OptionError for an unknown option or one out of range, and what reading, embedding and weighing raise.

    >>> rows = [{"prompt": f"Add {i} and 1.", "chosen": str(i + 1), "rejected": "No."} for i in range(60)]
    >>> rows += [{"prompt": "Write a poem about rain.", "chosen": "Drip, drop.", "rejected": "No."}]
    >>> weighed = kat.run(rows, k=5)
    >>> weighed.prefixes[int(np.argmax(weighed.weights))].opening
    'Write a poem about rain.'
    """
    embed, density, weighing = _chosen(model, pair_weights, options)
    read, stats = _read(pairs, weighing, reading, max_bad_rows)
    kept = read if weighing is None else list(read)
    prefixes = collect_openings(kept)[0]
    if not prefixes:
        raise InputError("There are no pairs to weigh.")
    boilerplate = choose_boilerplate(embed, prefixes)
    items = [boilerplate.without(prefix) for prefix in prefixes]
    _tell_left_out(stats, sum(item.messages != one.messages for item, one in zip(items, prefixes, strict=True)))
    embeddings = _embedded(items, embed, device, progress)
    neighbors = _searched(embeddings, density, device, progress)
    estimate = estimate_density(neighbors, density.k, density.estimator)
    weights = weigh(estimate, density.ess, density.cap, density.temperature, density.max_temperature)
    table = None
    if weighing is not None:
        table = _pair_weights(kept, weights, embeddings, weighing, density=density, device=device)
    return WeighedPairs(
        prefixes=prefixes,
        embeddings=embeddings,
        neighbors=neighbors,
        density=estimate,
        weights=weights,
        pair_weights=table,
        stats=stats,
        boilerplate=boilerplate.as_dict(),
    )


def _chosen(
    model: str, pair_weights: bool | PairOptions, options: Mapping[str, Any]
) -> tuple[EmbedOptions, DensityOptions, PairOptions | None]:
    """The options of each part; None of pair weights that are not asked for."""
    embed, density, weighing = (_names(kind) for kind in (EmbedOptions, DensityOptions, PairOptions))
    check_keywords(run, list(dict.fromkeys([*keywords_of(run), *embed, *density, *weighing])), options)
    of_pairs = {name: value for name, value in options.items() if name not in {*embed, *density}}
    if not isinstance(pair_weights, bool | PairOptions):
        raise OptionError(f"pair_weights is {pair_weights!r}; expected True, False or kat.pair_config.PairOptions.")
    if of_pairs and pair_weights is False:
        raise OptionError(f"{next(iter(of_pairs))} is an option of pair weights; add pair_weights=True.")
    base = pair_weights if isinstance(pair_weights, PairOptions) else PairOptions()
    return (
        replace(EmbedOptions(), model=model, **{name: options[name] for name in embed if name in options}),
        replace(DensityOptions(), **{name: options[name] for name in density if name in options}),
        None if pair_weights is False else replace(base, **of_pairs),
    )


def _names(kind: type) -> list[str]:
    return [one.name for one in fields(kind)]


def _read(
    pairs: Any, weighing: PairOptions | None, reading: ReadOptions | None, max_bad_rows: int | str
) -> tuple[Iterable[Pair], PairStats]:
    """The pairs, and what is counted of them as they are read."""
    from kat.pair_weights.weighting import label_columns

    labels = label_columns(weighing) if weighing is not None else ()
    if isinstance(pairs, list | tuple) and pairs and isinstance(pairs[0], Pair):
        if reading is not None:
            raise OptionError("reading says how rows are read, and these are pairs already; give the rows themselves.")
        _check_pairs(pairs, labels)
        return pairs, PairStats(pairs=len(pairs), sources=Counter(pair.src for pair in pairs))
    if isinstance(pairs, PairReader):
        if reading is not None:
            raise OptionError("reading says how rows are read, and this is a reader already; give the rows themselves.")
        first = list(itertools.islice(pairs, 1))
        _check_pairs(first, labels)
        return itertools.chain(first, pairs), pairs.stats
    reader = PairReader(pairs, max_bad_rows, options=reading, labels=labels)
    return reader, reader.stats


def _tell_left_out(stats: PairStats, shortened: int) -> None:
    """Say what of the rows was not read, and how many texts are embedded without what most of them share."""
    if stats.bad:
        note(f"run  {stats.bad:,} bad rows were passed over; kat.read_pairs(…).bad_rows says why")
    for reason, count in stats.dropped.items():
        note(f"run  {count:,} rows left out: {reason}")
    if shortened:
        note(f"run  {shortened:,} texts are embedded without what most share: see .boilerplate")


def _check_pairs(pairs: Sequence[Any], labels: Sequence[str]) -> None:
    """Raise InputError for what is no pair, or for pairs without a column that weights are made of."""
    for pair in checked_pairs(pairs, "run"):
        if missing := [name for name in labels if name != SOURCE and name not in pair.labels]:
            raise InputError(f"The pairs do not carry the column {missing[0]!r}; give the rows themselves.")


def _embedded(items: Sequence[Prefix], options: EmbedOptions, device: str, progress: bool) -> Embeddings:
    from kat.embedding.self_check import self_check

    self_check(options)
    return cached_encoder(options, device).encode(items, progress=progress)


def _searched(embeddings: Embeddings, options: DensityOptions, device: str, progress: bool) -> Neighbors:
    """As many neighbours as a run keeps, so that weights at another k need no new search."""
    others = max(len(embeddings) - 1, 1)
    if others < options.k:
        warnings.warn(f"k is {others}, not {options.k}: there are only {len(embeddings):,} texts.", stacklevel=3)
    return find_neighbors(
        embeddings,
        min(max(options.k, STORED_NEIGHBORS), others),
        metric=options.metric,
        center=options.center,
        device=device,
        progress=progress,
        search=options.search,
        least_recall=options.least_recall,
    )


def _pair_weights(
    pairs: Iterable[Pair],
    weights: Weights,
    embeddings: Embeddings,
    options: PairOptions,
    *,
    density: DensityOptions,
    device: str,
) -> PairWeights:
    """The table of `kat weigh-pairs`; what it would warn of is a warning."""
    from kat.data.pair_columns import collect_columns
    from kat.pair_weights.duplicates import Sketches
    from kat.pair_weights.table import OpeningWeights, pair_table

    assert weights.density is not None
    texts = Sketches()
    columns = collect_columns(texts.watch(pairs) if options.group_cosine is None else pairs)
    openings = OpeningWeights(embeddings, weights.density, weights.values)
    table, facts = pair_table(columns, openings, texts, options, density, device=device)
    for reason, count in facts["left_out"].items():
        note(f"run  {count:,} of {len(table):,} pairs have no weight: {reason}")
    for warning in facts["warnings"]:
        warnings.warn(warning, stacklevel=3)
    return replace(table, blend=facts["weights"]["blend"])
