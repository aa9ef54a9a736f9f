"""What can be set of the evaluation of reward models, of the self-test, and of the demo: see `kat.config`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from kat.config import DensityOptions
from kat.panels import EVIDENCE, INPUT, OUTPUT
from kat.parameters import integer, integer_or_all, one_of, option, whole_number


@Parameter(name="*", group=EVIDENCE)
@dataclass(frozen=True)
class EvaluateOptions:
    """Which pairs a reward model is evaluated on, and how its intervals are drawn."""

    split: Annotated[Literal["validation", "train", "all"], option("Which of its pairs.")] = "validation"
    missing_scores: Annotated[int | Literal["all"], integer_or_all('Pairs that may lack a reward, or "all".')] = 0
    replicates: Annotated[int, integer("Of the bootstrap.")] = 2000
    seed: Annotated[int, integer("Of the bootstrap and the sign flips.")] = 0

    def __post_init__(self) -> None:
        one_of("split", self.split, ("validation", "train", "all"))
        whole_number("replicates", self.replicates)
        whole_number("seed", self.seed, least=0)
        if self.missing_scores != "all":
            whole_number("missing_scores", self.missing_scores, least=0)


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True)
class SelftestOptions:
    """The size of the data that the self-test draws."""

    n: Annotated[int, integer("Rows; choose about as many as your openings.")] = 5000
    d: Annotated[int, integer("Intrinsic dimension of the data drawn.")] = 8
    k: Annotated[int, integer("Neighbours.")] = DensityOptions.k
    seed: Annotated[int, integer("Of the draw.")] = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("d", 1), ("k", 1), ("seed", 0)):
            whole_number(name, getattr(self, name), least)


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class DemoOptions:
    """The size of the demo's file."""

    pairs: Annotated[int, integer("Pairs to make.")] = 4000
    seed: Annotated[int, integer("Of the draw; same seed, same file.")] = 0

    def __post_init__(self) -> None:
        whole_number("pairs", self.pairs)
        whole_number("seed", self.seed, least=0)
