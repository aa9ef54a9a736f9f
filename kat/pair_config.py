"""What can be set of pair weights: as in `kat.config`."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kat.config import NOT_RECORDED
from kat.errors import OptionError
from kat.panels import EVIDENCE, WEIGHTS
from kat.parameters import flag, integer, number, one_of, option, whole_number


@Parameter(name="*", group=WEIGHTS)
@dataclass(frozen=True)
class PairOptions:
    """How weights of openings become weights of pairs, and which pairs train."""

    multiplicity: Annotated[
        Literal["pair", "sqrt", "opening"],
        option("What an opening of m pairs counts with: m, √m or 1 (times its density weight)."),
    ] = "pair"
    cap: Annotated[float, option("Largest pair weight allowed; the mean over the training pairs is 1.")] = 10.0
    blend: Annotated[
        float, option("Share of density in a weight, blend · w + 1 - blend: 0 is uniform, 1 density alone.")
    ] = 0.25
    smooth: Annotated[
        str | None,
        option("Weigh kinds of prompts, not single ones: the mean w of each cluster of openings (cluster), or column."),
    ] = None
    within: Annotated[
        str | None,
        option("Let no kind of prompts pay for another: the weight of each cluster (cluster), or column, stays."),
    ] = None
    groups: Annotated[
        str | None, option("A column with the groups of the pairs: small groups count more, in place of density.")
    ] = None
    clusters: Annotated[int, integer("Clusters of openings, by k-means.")] = 20
    task: Annotated[str | None, option("A column to report: what its values have of pairs, and of weight.")] = None
    split: Annotated[
        Literal["group", "opening", "none"],
        option("What stays on one side of the split: groups of near-duplicate openings, or single openings."),
    ] = "group"
    validation_share: Annotated[float, option("Share of the pairs that validate.")] = 0.1
    group_cosine: Annotated[
        float | None,
        option("Openings at this cosine or more are near-duplicates [default: those that share most of their text]."),
    ] = None
    missing_weight: Annotated[
        Literal["error", "one", "drop"], option("What a pair gets whose opening has no density weight.")
    ] = "error"
    duplicates: Annotated[Literal["keep", "drop"], option("Whether exact duplicates of an earlier pair stay.")] = "keep"
    control: Annotated[
        Literal["uniform", "permuted", "multiplicity", "length"] | None,
        option("Instead of density weights, what they are to be compared with; the split stays the same."),
    ] = None
    seed: Annotated[int, integer("Of the split, and of clusters.")] = 0
    control_seed: Annotated[int, integer("Of --control permuted; the split stays the same.")] = 0

    def __post_init__(self) -> None:
        one_of("multiplicity", self.multiplicity, ("pair", "sqrt", "opening"))
        one_of("split", self.split, ("group", "opening", "none"))
        one_of("missing_weight", self.missing_weight, ("error", "one", "drop"))
        one_of("duplicates", self.duplicates, ("keep", "drop"))
        one_of("control", self.control, (None, "uniform", "permuted", "multiplicity", "length"))
        for name, least in (("seed", 0), ("control_seed", 0), ("clusters", 1)):
            whole_number(name, getattr(self, name), least=least)
        _check_strata(self)
        limits = {"validation_share": (0, 1), "group_cosine": (0, 1), "cap": (1, math.inf), "blend": (0, 1)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if name == "group_cosine" and value is None:
                continue
            number(name, value, low, high)
        if self.control == "multiplicity" and self.multiplicity == "pair":
            raise OptionError(
                "control is multiplicity, and multiplicity pair does nothing; give --multiplicity sqrt or opening, "
                "as for the weights that it is compared with."
            )


def _check_strata(options: PairOptions) -> None:
    """Raise OptionError for strata that undo each other."""
    for name in ("smooth", "within", "groups", "task"):
        value = getattr(options, name)
        if value is not None and (not isinstance(value, str) or not value):
            raise OptionError(f"{name} is {value!r}; expected the name of a column of the pairs.")
    within = column_of(options.within)
    for name in ("smooth", "groups"):
        if within is not None and column_of(getattr(options, name)) == within:
            raise OptionError(f"{name} and within are both {within}: then every pair weighs the same. Leave one out.")


def column_of(value: Any) -> Any:
    """Return what an option names; the word "none" names nothing."""
    return None if value == "none" else value


@Parameter(name="*", group=EVIDENCE)
@dataclass(frozen=True)
class TryOptions:
    """Which weightings are tried, on what features, and how often."""

    weightings: Annotated[
        str | None,
        option(
            "Weightings to try: density, blend=B, smooth, within, groups=COLUMN, …, joined by + "
            "[default: density,blend=0.5,blend=0.25,smooth, and within where there are several sources]."
        ),
    ] = None
    model: Annotated[str, option("Whose features the heads read: an encoder, a causal model, a reward model.")] = (
        "minilm"
    )
    folds: Annotated[int, integer("Folds: each pair is measured by heads that the others trained.")] = 5
    seeds: Annotated[int, integer("How often the folds are drawn.")] = 5
    permutations: Annotated[int, integer("Permutations of each weighting beside it.")] = 20
    max_len: Annotated[int, integer("Tokens of prompt and completion at most; prompts lose their beginning.")] = 512
    min_prompt: Annotated[int, integer("Tokens that a completion leaves for its prompt.")] = 128
    long_completions: Annotated[
        Literal["error", "drop"], option("A pair with a completion over max_len - min_prompt tokens.")
    ] = "drop"
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = field(default=False, metadata=NOT_RECORDED)
    replicates: Annotated[int, integer("Of the bootstrap.")] = 1000
    seed: Annotated[int, integer("Of folds, permutations and bootstrap.")] = 0

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("seeds", 1), ("permutations", 0), ("replicates", 1), ("seed", 0)):
            whole_number(name, getattr(self, name), least=least)
        for name in ("max_len", "min_prompt"):
            whole_number(name, getattr(self, name))
        one_of("long_completions", self.long_completions, ("error", "drop"))
        if self.min_prompt >= self.max_len:
            raise OptionError(f"min_prompt is {self.min_prompt} and max_len {self.max_len}; expected less.")
