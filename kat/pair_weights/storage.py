"""`pair_weights.parquet`: one row for every pair of a source, in its order, for any trainer to read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import orjson

from kat.array_records import ArrayRecord, as_frame, number, rows_of, span
from kat.artifacts import check_vouched
from kat.data.texts import ArrowTexts, TextColumn, text_column
from kat.errors import InputError, MismatchError

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class PairWeights(ArrayRecord):
    """The columns of the file, [P] each; strings as Python objects, which are made when a column is first read.

    `pair_id` is unique and `row` the pair's line in the source. `m` counts the pairs of its opening in its own part of
    the split, and `multiplicity_factor` is m^(a−1). `log_density` is the run's, which made the density weight `w` of
    the opening; `u` is that weight evened out, before it is blended, and NaN where a pair does not train. `v` is the
    final weight: mean 1 over the training pairs, and NaN elsewhere. `train_log_density` is measured among the openings
    that train, of which one that validates is a query, and `bin` the fifth of those that it falls in: 0 is the rarest.
    `group` numbers the groups of near-duplicates; `cluster` the clusters of openings, where weights were made of them.
    `blend` is the share of density that v was made with.

    In Python NaN, "" and −1 stand where the file has nulls: of what is unknown, and of pairs that are left out.

    >>> weights = kat.read_pair_weights("run/pair_weights.parquet")
    >>> weights
    PairWeights(300 pairs, 240 train, 60 validation, v 0.771 … 1.53, blend 0.25)
    >>> round(float(weights.v[weights.split == "train"].mean()), 3)
    1.0
    >>> int(weights.to_pandas()["v"].notna().sum())
    240
    """

    pair_id: np.ndarray
    row: np.ndarray
    opening_id: np.ndarray
    src: np.ndarray
    m: np.ndarray
    log_density: np.ndarray
    w: np.ndarray
    multiplicity_factor: np.ndarray
    u: np.ndarray
    v: np.ndarray
    split: np.ndarray
    group: np.ndarray
    train_log_density: np.ndarray
    bin: np.ndarray
    chosen_chars: np.ndarray
    rejected_chars: np.ndarray
    left_out: np.ndarray
    cluster: np.ndarray | None = None
    blend: float = 1.0
    path: Path | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.v)

    def _facts(self) -> Iterator[str]:
        split = self.text("split").coded()
        yield number(len(self), "pair")
        yield ", ".join(f"{int(split.equals(part).sum()):,} {part}" for part in SPLITS)
        yield f"v {span(self.v[~np.isnan(self.v)])}"
        if self.blend != 1:
            yield f"blend {self.blend:.3g}"

    def __getitem__(self, rows: Any) -> Any:
        """Return one pair as {column: value} by its number, or the weights of some: a slice, numbers, or a mask [P].

        Raises IndexError for a pair that there is not, TypeError for what names no rows.
        """
        chosen = rows_of(rows, len(self))
        numbers = np.atleast_1d(np.arange(len(self))[chosen])
        columns = {name: self._column(name) for name in COLUMNS}
        some: dict[str, Any] = {n: None if one is None else _taken(one, numbers) for n, one in columns.items()}
        if isinstance(chosen, int):
            return {name: one[0] if name in _TEXT else one[0].item() for name, one in some.items() if one is not None}
        return replace(self, **some)

    def _column(self, name: str) -> Any:
        return self.text(name) if name in _TEXT else getattr(self, name)

    def to_arrow(self) -> pa.Table:
        """Return the pairs as a pyarrow.Table, with the columns and the nulls of the file."""
        return _arrow_rows({name: self._column(name) for name in COLUMNS}, 0, len(self))

    def to_pandas(self) -> pandas.DataFrame:
        """Return `to_arrow` as a pandas.DataFrame. Raises MissingExtraError without pandas."""
        return as_frame(self.to_arrow())

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw how often each weight v of a pair that trains occurs; return matplotlib's axes.

        Raises InputError if none trains, MissingExtraError without matplotlib.
        """
        from kat.plots import histogram

        return histogram({"v": self.v}, repr(self), "v (mean 1 over the pairs that train)", "pairs", axes)

    def training_weights(self) -> dict[str, float]:
        """Return {pair id: v} of the pairs that train."""
        rows = np.flatnonzero(self.text("split").coded().equals("train"))
        return dict(zip(self.text("pair_id").take(rows), self.v[rows].tolist(), strict=True))

    def draw_weights(self, blend: float | None = None) -> dict[str, float]:
        """Return {opening id: blend · u + 1 − blend} for drawing openings; by its own blend if none is given.

        u of an opening is the mean over its pairs, with mean 1 over the openings that train: for a draw they are the
        unit, and no factor of multiplicity has a say. One that does not train has w in its place, on the same scale.
        """
        share = self.blend if blend is None else blend
        split = self.text("split").coded()
        kept = np.flatnonzero(~split.equals(""))
        ids, place = self.text("opening_id").coded().take(kept).distinct()
        pairs = np.bincount(place)
        trains = np.bincount(place, split.equals("train")[kept]) > 0
        w = np.bincount(place, self.w[kept]) / pairs
        u = np.bincount(place, np.nan_to_num(self.u[kept])) / pairs
        u = np.where(trains, u / u[trains].mean(), w / w[trains].mean())
        return dict(zip(ids, (share * u + 1 - share).tolist(), strict=True))

    def text(self, name: str) -> TextColumn:
        """Return a column of strings as it is held: in Arrow's memory or as codes, until it was read as an array."""
        return text_column(self.__dict__[name])


class _Text:
    """A field that holds a `TextColumn` until it is read, and from then on the array of strings made of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, record: PairWeights | None, owner: type) -> Any:
        if record is None:
            return self
        held = record.__dict__[self._name]
        if isinstance(held, TextColumn):
            held = record.__dict__[self._name] = held.objects()
        return held

    def __set__(self, record: PairWeights, values: Any) -> None:
        record.__dict__[self._name] = values


COLUMNS = tuple(f.name for f in fields(PairWeights) if f.name not in ("blend", "path"))
_TEXT = ("pair_id", "opening_id", "src", "split", "left_out")
for _name in _TEXT:
    setattr(PairWeights, _name, _Text(_name))  # not in the class: a dataclass would take it for the field's default
_INTEGERS = {"row": "int64", "m": "int32", "group": "int64", "bin": "int8", "chosen_chars": "int32"}
_INTEGERS |= {"rejected_chars": "int32", "cluster": "int32"}
_OPTIONAL = ("u", "cluster")
"""Columns that files of earlier versions lack, and those of weights that need none."""
_NULLS = {"split": "", "left_out": "", "bin": -1, "group": -1, "cluster": -1}
"""Of integers and strings; of float columns it is NaN."""
_ROW_GROUP = 1 << 20
"""Rows of a row group, which are also written at a time."""
SPLITS = ("train", "validation")
_RANGES = {"split": SPLITS, "bin": range(5)}
"""What a column may say where it is not null."""


def _taken(column: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of a column; strings as objects."""
    return column.take(rows).objects() if isinstance(column, TextColumn) else column[rows]


def write_pair_weights(weights: PairWeights, file: IO[bytes], facts: str) -> None:
    """Write the file; `facts`, a JSON report, stands in its metadata under "kat"."""
    import pyarrow.parquet as pq

    n = len(weights)
    columns = {name: weights._column(name) for name in COLUMNS}
    schema = _arrow_rows(columns, 0, 0).schema.with_metadata({"kat": facts})
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, max(n, 1), _ROW_GROUP):
            rows = _arrow_rows(columns, start, min(start + _ROW_GROUP, n))
            writer.write_table(rows.replace_schema_metadata(schema.metadata), _ROW_GROUP)


def _arrow_rows(columns: Mapping[str, Any], start: int, stop: int) -> pa.Table:
    """Some rows of a table's columns as the file has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = {}
    for name, column in columns.items():
        if column is None:
            continue
        if isinstance(column, TextColumn):
            texts = column.chunks(start, stop)
            arrays[name] = pc.if_else(pc.equal(texts, ""), None, texts) if name in _NULLS else texts
            continue
        values = column[start:stop]
        if name in _INTEGERS:
            mask = values == _NULLS[name] if name in _NULLS else None
            arrays[name] = pa.array(values.astype(_INTEGERS[name]), mask=mask)
        else:
            arrays[name] = pa.array(values.astype(np.float64), mask=np.isnan(values))
    return pa.table(arrays)


def read_pair_weights(path: str | Path, *, vouched: bool = True) -> PairWeights:
    """Read the columns of a file of `kat weigh-pairs`.

    Raises InputError if it is not there or no such file, MismatchError if an id stands twice in it, or if `vouched` and
    it is not what its manifest says.

    >>> weights = kat.read_pair_weights("run/pair_weights.parquet").training_weights()
    >>> round(sum(weights.values()) / len(weights), 3)
    1.0
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    remedy = "Make it with: kat weigh-pairs RUN"
    if not path.is_file():
        raise InputError(f"{path} does not exist. {remedy}")
    try:
        if vouched:
            check_vouched(path)
        with path.open("rb") as file:  # a name that is no UTF-8 is none that Arrow opens
            table = pq.read_table(file)
        table.validate(full=True)
        held = list(table.column_names)
    except MismatchError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is no parquet file, or damaged. {remedy}") from error
    if missing := [name for name in COLUMNS if name not in (*held, *_OPTIONAL)]:
        raise InputError(f"{path} has no column {', '.join(missing)}. {remedy}")
    columns: dict[str, Any] = {}
    for name in (name for name in COLUMNS if name in held):
        if held.count(name) > 1:
            raise InputError(f"{path} has {held.count(name)} columns {name}. {remedy}")
        if fault := _fault(table[name], name):
            raise InputError(f"{path}: column {name} {fault}. {remedy}")
        columns[name] = _column(table[name], name)
    columns.setdefault("u", columns["w"])
    if repeated := _most_repeated(columns["pair_id"]):
        raise MismatchError(f"{path} holds the pair id {repeated[0]} {repeated[1]} times. {remedy}")
    return PairWeights(**columns, blend=_blend(table), path=path)


def _most_repeated(ids: TextColumn) -> tuple[str, int] | None:
    """The id that stands most often in a column, the first of them in order, and how often; None if all differ."""
    coded = ids.coded()
    if len(coded.names) == len(ids):
        return None
    names, place = coded.distinct()
    counts = np.bincount(place)
    return names[int(np.argmax(counts))], int(counts.max())


def _blend(table: pa.Table) -> float:
    """The blend that a file's report tells; files of earlier versions were of density alone."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return float(orjson.loads((table.schema.metadata or {})[b"kat"])["weights"]["blend"])
    return 1.0


def _fault(column: pa.ChunkedArray, name: str) -> str | None:
    """Return what is wrong with a column: its type, nulls where it must say something, or a value that stands for
    nothing; None if nothing is."""
    import pyarrow as pa
    import pyarrow.types as types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    expected, fits = "numbers", types.is_floating(kind) or types.is_integer(kind)
    if name in _TEXT:
        expected, fits = "text", kind in (pa.string(), pa.large_string(), pa.string_view())
    elif name in _INTEGERS:
        expected, fits = "whole numbers", types.is_integer(kind)
    may_be_null = name in _NULLS or (name not in _TEXT and name not in _INTEGERS)
    if not fits and not (may_be_null and types.is_null(kind)):
        return f"is of type {column.type}; expected {expected}"
    if column.null_count and not may_be_null:
        return f"has no value in row {column.is_null().index(True).as_py()}"
    if name in _RANGES and len(column) > column.null_count:
        values = set(column.unique().drop_null().to_pylist())
        if wrong := [value for value in values if value not in _RANGES[name]]:
            return f"holds {wrong[0]!r}; expected {', '.join(map(str, _RANGES[name]))}"
    return None


def _column(column: pa.ChunkedArray, name: str) -> np.ndarray | TextColumn:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        column = column.cast(pa.string() if name in _TEXT else pa.int64() if name in _INTEGERS else pa.float64())
    if name in _NULLS:
        column = column.fill_null(_NULLS[name])
    if name in _TEXT:
        texts = ArrowTexts(column if column.type == pa.large_string() else column.cast(pa.string()))
        return texts if name in ("pair_id", "opening_id") else texts.coded()
    return np.asarray(column.to_numpy(), None if name in _INTEGERS else np.float64)


def check_pair_weights(table: PairWeights, path: Path, *, by_group: bool) -> str:
    """Check what a table promises: mean and multiplicity, and a split that no opening crosses; return what was proved.

    `by_group` says that groups of near-duplicates do not cross it either. Raises MismatchError.
    """
    remedy = "Make it again: kat weigh-pairs RUN --overwrite"
    split = table.text("split").coded()
    kept, train = ~split.equals(""), split.equals("train")
    weighed = np.isfinite(table.v) & (table.v > 0)
    if not (np.isfinite(table.v) == train).all() or not weighed[train].all():
        row = int(np.argmax(weighed != train))
        raise MismatchError(
            f"{path}: row {row} (pair {table.text('pair_id')[row]}, {split[row]}) has v = {table.v[row]}."
        )
    if abs((mean := float(table.v[train].mean())) - 1) > 1e-6:
        raise MismatchError(f"{path}: the mean of v over the training pairs is {mean:.6g}, not 1. {remedy}")
    opening = table.text("opening_id").coded()
    counts = np.bincount(opening.codes[kept], minlength=len(opening.names))
    if wrong := int((table.m[kept] != counts[opening.codes[kept]]).sum()):
        raise MismatchError(f"{path}: {wrong:,} pairs have an m that is not the number of their opening's pairs.")
    both = np.intersect1d(opening.codes[train], opening.codes[kept & ~train])
    crossing: dict[str, Any] = {"opening_id": opening.names.take(both)}
    if by_group:
        crossing["group"] = np.intersect1d(table.group[train], table.group[kept & ~train])
    for name, values in crossing.items():
        if len(values):
            raise MismatchError(f"{path}: {len(values):,} values of {name} train and validate, first {min(values)}.")
    sides = f"{int(train.sum()):,} train, {int((kept & ~train).sum()):,} validate"
    return f"  {len(table):,} pairs: {sides}; v has mean 1, m is counted, no opening is on both sides"
