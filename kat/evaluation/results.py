"""What an evaluation finds: dataclasses that carry their evidence, and become JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.array_records import as_frame, number
from kat.plots import intervals

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa
    from matplotlib.axes import Axes

VIEWS = ("unweighted", "balanced")
LONGER = "longer_wins"


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval, which is None where there are too few openings to say."""

    value: float
    interval: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"value": _plain(self.value), "interval": None if self.interval is None else list(self.interval)}


@dataclass(frozen=True)
class Part:
    """Some pairs: how many, of how many openings, and estimates by view and metric.

    "unweighted" counts every pair once; "balanced" weighs it by 1 / m, m the pairs of its opening in this part, so
    that every opening counts once. Metrics are accuracy (ties ½), margin, log_loss (nats), ece, and longer_wins: the
    accuracy of the guess that the longer completion wins, where lengths are known.
    """

    pairs: int
    openings: int
    estimates: Mapping[str, Mapping[str, Estimate]]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        views = {v: {m: e.as_dict() for m, e in metrics.items()} for v, metrics in self.estimates.items()}
        return {"pairs": self.pairs, "openings": self.openings, **views}


class Table:
    """Results as a table: a row for each number, {"part", "name", "view", "metric", …}."""

    def _rows(self) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def to_arrow(self) -> pa.Table:
        """Return every number with its interval as a pyarrow.Table, a row each; null where none is known."""
        import pyarrow as pa

        return pa.Table.from_pylist(list(self._rows()))

    def to_pandas(self) -> pandas.DataFrame:
        """Return `to_arrow` as a pandas.DataFrame. Raises MissingExtraError without pandas."""
        return as_frame(self.to_arrow())


def _parts(result: Any) -> Iterator[tuple[str, str, Any]]:
    """Kind, name and content of the parts of an evaluation or a comparison: all pairs, then bins, then sources."""
    yield "all", "", result.all
    yield from (("bin", str(name), part) for name, part in result.bins.items())
    yield from (("source", name, part) for name, part in result.sources.items())


def _ends(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = (None, None) if interval is None else map(_plain, interval)
    return {"low": low, "high": high}


def _percent(value: float, interval: tuple[float, float] | None) -> str:
    shown = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{value:.1%}{shown}"


@dataclass(frozen=True, repr=False)
class Evaluation(Table):
    """`all` pairs, then `macro`: the mean over the density bins of the balanced values, each bin counting alike; then
    `bins` (0 is the rarest) and `sources` by name."""

    all: Part
    macro: Mapping[str, Estimate] | None
    bins: Mapping[str, Part]
    sources: Mapping[str, Part]
    replicates: int
    seed: int

    def __len__(self) -> int:
        return self.all.pairs

    def __repr__(self) -> str:
        accuracy = self.all.estimates[VIEWS[0]]["accuracy"]
        facts = [number(self.all.pairs, "pair"), number(self.all.openings, "opening")]
        facts += [f"accuracy {_percent(accuracy.value, accuracy.interval)}", number(len(self.bins), "bin")]
        return f"Evaluation({', '.join([*facts, number(len(self.sources), 'source')])})"

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the accuracy of all pairs, of each bin and each source, with 95% intervals; return matplotlib's axes.

        Raises MissingExtraError without matplotlib.
        """
        shown = {f"{kind} {name}".strip(): part.estimates[VIEWS[0]]["accuracy"] for kind, name, part in _parts(self)}
        values = {name: (one.value, one.interval) for name, one in shown.items()}
        return intervals(values, repr(self), "accuracy", 0.5, axes)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for kind, name, part in _parts(self):
            for view, metrics in part.estimates.items():
                for metric, one in metrics.items():
                    where = {"part": kind, "name": str(name), "view": view, "metric": metric}
                    yield {**where, "pairs": part.pairs, "value": _plain(one.value), **_ends(one.interval)}
        for metric, one in (self.macro or {}).items():
            row: dict[str, Any] = {"part": "macro", "name": "", "view": "balanced", "metric": metric}
            yield {**row, "pairs": self.all.pairs, "value": _plain(one.value), **_ends(one.interval)}

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        macro = None if self.macro is None else {m: e.as_dict() for m, e in self.macro.items()}
        parts = {kind: {n: p.as_dict() for n, p in getattr(self, kind).items()} for kind in ("bins", "sources")}
        bootstrap = {"replicates": self.replicates, "seed": self.seed}
        return {"all": self.all.as_dict(), "macro": macro, **parts, "bootstrap": bootstrap}


@dataclass(frozen=True)
class Difference:
    """First minus second on the same pairs: the difference with its interval, the p-value of the sign-flip test over
    openings, and the smallest difference that this many openings would show four times in five."""

    value: float
    interval: tuple[float, float] | None
    p: float
    detectable: float

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        interval = None if self.interval is None else list(self.interval)
        value, detectable = _plain(self.value), _plain(self.detectable)
        return {"difference": value, "interval": interval, "p": self.p, "minimum_detectable_effect": detectable}


@dataclass(frozen=True, repr=False)
class Comparison(Table):
    """Differences by view and metric, of all pairs, of each density bin and of each source."""

    all: Mapping[str, Mapping[str, Difference]]
    bins: Mapping[str, Mapping[str, Mapping[str, Difference]]]
    sources: Mapping[str, Mapping[str, Mapping[str, Difference]]]
    replicates: int
    seed: int

    def __repr__(self) -> str:
        accuracy = self.all[VIEWS[0]]["accuracy"]
        parts = f"{number(len(self.bins), 'bin')}, {number(len(self.sources), 'source')}"
        return f"Comparison(accuracy {_percent(accuracy.value, accuracy.interval)}, p {accuracy.p:.3g}, {parts})"

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the difference in accuracy over all pairs, each bin and each source, with 95% intervals; return
        matplotlib's axes. Raises MissingExtraError without matplotlib.
        """
        shown = {f"{kind} {name}".strip(): views[VIEWS[0]]["accuracy"] for kind, name, views in _parts(self)}
        values = {name: (one.value, one.interval) for name, one in shown.items()}
        return intervals(values, repr(self), "difference in accuracy", 0.0, axes)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for kind, name, views in _parts(self):
            for view, metrics in views.items():
                for metric, one in metrics.items():
                    where = {"part": kind, "name": str(name), "view": view, "metric": metric}
                    number_of = {"difference": _plain(one.value), **_ends(one.interval), "p": _plain(one.p)}
                    yield {**where, **number_of, "minimum_detectable_effect": _plain(one.detectable)}

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""

        def plain(views: Mapping[str, Mapping[str, Difference]]) -> dict[str, Any]:
            return {v: {m: d.as_dict() for m, d in metrics.items()} for v, metrics in views.items()}

        parts = {kind: {n: plain(p) for n, p in getattr(self, kind).items()} for kind in ("bins", "sources")}
        return {"all": plain(self.all), **parts, "bootstrap": {"replicates": self.replicates, "seed": self.seed}}


def _plain(number: float) -> float | None:
    """Return None for what JSON has no word for: NaN and infinity."""
    return float(number) if np.isfinite(number) else None
