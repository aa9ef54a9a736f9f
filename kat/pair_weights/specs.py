"""Weightings by a word: what `kat try-weights --weightings` takes, as options of `kat weigh-pairs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from kat.errors import OptionError
from kat.pair_config import PairOptions, column_of
from kat.pair_weights.weighting import CLUSTER

UNIFORM = "uniform"
WORDS = "uniform, density, blend=B, smooth[=COLUMN], within[=COLUMN], groups=COLUMN, sqrt, opening"


def weightings_of(text: str, base: PairOptions) -> dict[str, PairOptions]:
    """Return the options of each weighting in a list, by its words: "density,blend=0.5+smooth,groups=task".

    Each is what `base` is but for what its words say; uniform is not listed, for all are compared with it. Raises
    OptionError for another word, or a weighting that stands twice.
    """
    weightings: dict[str, PairOptions] = {}
    for name in (part.strip() for part in text.split(",")):
        if name == UNIFORM:
            continue
        settings: dict[str, Any] = {}
        for word in name.split("+"):
            settings |= _setting(word.strip(), name)
        options = replace(base, control=None, **settings)
        if name in weightings or options in weightings.values():
            raise OptionError(f"weightings has {name!r} twice.")
        weightings[name] = options
    return weightings


def _setting(word: str, name: str) -> Mapping[str, Any]:
    key, equals, value = word.partition("=")
    if key == "density" and not equals:
        return {"blend": 1.0}
    if key in ("sqrt", "opening") and not equals:
        return {"multiplicity": key}
    if key == "blend" and equals:
        try:
            return {"blend": float(value)}
        except ValueError:
            raise OptionError(f"weightings has {name!r}: {value!r} is no number.") from None
    if key in ("smooth", "within") and (value or not equals):
        return {key: value or (CLUSTER if key == "smooth" else "src")}
    if key == "groups" and value:
        return {key: value}
    raise OptionError(f"weightings has {name!r}; expected {WORDS}, joined by +.")


def flags_of(options: PairOptions, base: PairOptions) -> str:
    """Return what to type behind `kat weigh-pairs RUN` for these options: what differs from `base`, and the blend."""
    told = [f"--blend {options.blend:g}"]
    for one in fields(options):
        value = getattr(options, one.name)
        if one.name != "blend" and column_of(value) != column_of(getattr(base, one.name)):
            told.append(f"--{one.name} {value}")
    return " ".join(told)
