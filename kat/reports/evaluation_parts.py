"""The parts of an evaluation in the order in which tables and figures show them, and what each is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kat.records import OPENING, Unit

SOURCES = 20
"""The largest sources, which are shown."""
_VIEWS = ("unweighted", "balanced")


@dataclass(frozen=True)
class Part:
    """A part of the pairs: all of them by a view, the mean of the density bins, a bin, or a source.

    `name` is the view's, the bin's or the source's; `counts` holds its pairs and openings, `estimates` its metrics.
    """

    kind: Literal["view", "macro", "bin", "source"]
    name: str
    counts: Mapping[str, Any]
    estimates: Mapping[str, Any]

    def title(self, unit: Unit = OPENING) -> str:
        """Return what the part is called; a source by its name as it is."""
        if self.kind == "view":
            return "every pair" if self.name == "unweighted" else f"every {unit.one}"
        return {"macro": "every density bin", "bin": bin_name(self.name)}.get(self.kind, self.name)

    def difference(self, comparison: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the difference in accuracy that a comparison has for this part; the mean of the bins has none."""
        if self.kind == "view":
            return dict(comparison["all"][self.name]["accuracy"])
        return dict(comparison[f"{self.kind}s"][self.name]["balanced"]["accuracy"])


def parts_of(evaluation: Mapping[str, Any]) -> Iterator[Part]:
    """Yield all pairs by both views, the mean of the bins, then bins and, if there are several, the largest sources.

    Bins and sources count every opening alike.
    """
    every = evaluation["all"]
    for view in _VIEWS:
        yield Part("view", view, every, every[view])
    if evaluation["macro"] is not None:
        yield Part("macro", "", every, evaluation["macro"])
    for b, part in evaluation["bins"].items():
        yield Part("bin", b, part, part["balanced"])
    if len(evaluation["sources"]) > 1:
        for name, part in list(evaluation["sources"].items())[:SOURCES]:
            yield Part("source", name, part, part["balanced"])


def compared_parts(evaluation: Mapping[str, Any]) -> list[Part]:
    """Return the parts of which two models are compared: all but the mean of the bins."""
    return [part for part in parts_of(evaluation) if part.kind != "macro"]


def bin_name(b: int | str, last: int = 4) -> str:
    """Return what a density bin is called."""
    named = {"-1": "no density", "0": "bin 0, rarest", str(last): f"bin {last}, most crowded"}
    return named.get(str(b), f"bin {b}" if str(b).isdigit() else str(b))
