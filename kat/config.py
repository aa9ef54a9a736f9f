"""What can be set, one frozen dataclass a stage: it serves the command line, TOML files, Python and the manifests."""

import math
import operator
import os
import re
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from kat.errors import OptionError


def _whole(_, tokens) -> int:
    """A whole number from 0 up; the library would round 1.5."""
    word = tokens[0].value
    if not re.fullmatch(r"\d+", word):
        raise ValueError(f"{word!r} is no whole number from 0 up")
    return int(word)


def _whole_or_all(_, tokens) -> int | str:
    return "all" if tokens[0].value == "all" else _whole(_, tokens)


def whole(text: str, **more) -> Parameter:
    """A parameter for whole numbers, with its help."""
    return Parameter(help=text, converter=_whole, n_tokens=1, **more)


def whole_or_all(text: str) -> Parameter:
    """A parameter for a whole number or the word "all", with its help."""
    return Parameter(help=text, metavar="N|all", show_choices=False, converter=_whole_or_all, n_tokens=1)


def base_directory() -> Path:
    """`$KAT_BASE_DIR`, else `$NANOCHAT_BASE_DIR`, else `~/.cache/nanochat`: where default paths start."""
    for name in ("KAT_BASE_DIR", "NANOCHAT_BASE_DIR"):
        if value := os.environ.get(name):
            return Path(value).expanduser()
    return Path.home() / ".cache" / "nanochat"


def data_path(name: str) -> Path:
    """A default file or folder in the base directory's `data/`."""
    return base_directory() / "data" / name


def _help(text: str, **more) -> Parameter:
    return Parameter(help=text, **more)


ModelName = Annotated[
    str,
    _help(
        "minilm (bundled), a local model directory, a hub name, or a nanochat name (base, mid, sft, rl, …).",
        alias=["--ckpt-source", "--base-model-source"],
    ),
]
BatchSize = Annotated[int | None, whole("Texts in a batch at most; a token budget rules memory anyway.")]


def whole_number(name: str, value: object, least: int = 1) -> int:
    """`value` as an int. Raises OptionError unless it is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name} is {value!r}; expected a whole number.") from None
    if isinstance(value, bool) or number < least:
        raise OptionError(f"{name} is {value!r}; expected a whole number of {least} or more.")
    return number


def one_of(name: str, value: object, allowed: tuple) -> None:
    """Raise OptionError unless `value` is one of those allowed."""
    if value not in allowed:
        raise OptionError(f"{name} is {value!r}; expected {', '.join(map(str, allowed))}.")


def check_weighting(ess: float, cap: float, temperature: float | None, max_temperature: float) -> None:
    """Raise OptionError for a floor outside (0, 1], a cap under 1, a floor out of the cap's reach, or a wrong T."""
    numbers = {"ess": ess, "cap": cap, "max_temperature": max_temperature, "temperature": temperature}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise OptionError(f"{name} is {value!r}; expected a number.")
    if not 0 < ess <= 1:
        raise OptionError(f"ess is {ess}; expected a share of N above 0 and at most 1.")
    if not 1 <= cap < math.inf:
        raise OptionError(f"cap is {cap}; weights of mean 1 need a cap of at least 1.")
    if temperature is None and ess < 1 / cap:
        raise OptionError(f"ess is {ess}, but weights of mean 1 under a cap of {cap:g} keep an ESS of {1 / cap:.3g}.")
    for name in ("temperature", "max_temperature"):
        if numbers[name] is not None and not 0 <= numbers[name] < math.inf:
            raise OptionError(f"{name} is {numbers[name]}; expected a number from 0 up.")


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """How a command runs, the same for every one; nothing here changes a good result."""

    max_bad_rows: Annotated[
        int | Literal["all"],
        whole_or_all('Bad rows to tolerate, or "all"; those met go to OUT.rejected.jsonl.'),
    ] = 0
    overwrite: Annotated[bool, _help("Replace an output made from other input or options.", negative="")] = False
    device: Annotated[str, _help("auto, cpu, cuda or mps.")] = "auto"


@Parameter(name="*")
@dataclass(frozen=True)
class EmbedOptions:
    """How texts become vectors."""

    model: ModelName = "minilm"
    batch_size: BatchSize = None
    max_tokens: Annotated[int | None, whole("Tokens of a text that are read [default: the model's limit].")] = None
    long_text: Annotated[
        Literal["tail", "head", "chunk"],
        _help("What is read of a longer text: its end, its beginning, or all of it in pieces that are averaged."),
    ] = "tail"
    pooling: Annotated[
        Literal["mean", "last", "cls"] | None,
        _help("How token vectors become one [default: the model's own, or mean]."),
    ] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], _help("Of matrix products; auto takes bfloat16 where it is faster.")
    ] = "auto"
    render: Annotated[
        Literal["plain", "chat"], _help("A conversation's text: contents joined by a newline, or the chat template.")
    ] = "plain"
    processes: Annotated[
        int | None, whole("Processes that read texts [default: one a core or GPU; this one for little work].")
    ] = None
    allow_network: Annotated[bool, _help("Let a hub name be downloaded.", negative="")] = False
    model_tag: Annotated[str | None, _help("Of a nanochat name: which d<depth> [default: the deepest].")] = None
    step: Annotated[int | None, whole("Of a nanochat name: which checkpoint [default: the last].")] = None

    def __post_init__(self):
        one_of("long_text", self.long_text, ("tail", "head", "chunk"))
        one_of("pooling", self.pooling, (None, "mean", "last", "cls"))
        one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("render", self.render, ("plain", "chat"))
        for name in ("batch_size", "max_tokens", "processes"):
            if (value := getattr(self, name)) is not None:
                whole_number(name, value)

    @property
    def source(self) -> str:
        """The model's one name, tag and step included: what manifests and workers know it by."""
        if self.model_tag is None and self.step is None:
            return self.model
        return "/".join([self.model, self.model_tag or "*", *([] if self.step is None else [str(self.step)])])


@Parameter(name="*")
@dataclass(frozen=True)
class DensityOptions:
    """How vectors become densities and weights."""

    k: Annotated[int, whole("Neighbours that a density is measured with.")] = 20
    metric: Annotated[
        Literal["cosine", "euclidean"], _help("cosine normalises rows first; distances are Euclidean.")
    ] = "cosine"
    center: Annotated[bool, _help("Take the mean off the vectors before the cosine.", negative="")] = False
    search: Annotated[
        Literal["exact", "approximate"],
        _help("approximate is for millions of rows; needs FAISS, tells its recall."),
    ] = "exact"
    least_recall: Annotated[float, _help("Least recall of an approximate search.")] = 0.98
    estimator: Annotated[
        Literal["mean_distance", "kth_distance", "inverse_cosine"], _help("How distances become a density.")
    ] = "mean_distance"
    ess: Annotated[float, _help("Floor of the effective sample size, as a share of N.")] = 0.5
    cap: Annotated[float, _help("Largest weight allowed; the mean is 1.")] = 10.0
    temperature: Annotated[float | None, _help("Exponent T in weight ∝ density^-T [default: solved from --ess].")] = (
        None
    )
    max_temperature: Annotated[float, _help("Where solving for T stops.")] = 20.0

    def __post_init__(self):
        whole_number("k", self.k)
        one_of("metric", self.metric, ("cosine", "euclidean"))
        one_of("search", self.search, ("exact", "approximate"))
        check_weighting(self.ess, self.cap, self.temperature, self.max_temperature)


@Parameter(name="*")
@dataclass(frozen=True)
class PairOptions:
    """How weights of openings become weights of pairs, and which pairs train."""

    multiplicity: Annotated[
        Literal["pair", "sqrt", "opening"],
        _help("What an opening of m pairs counts with: m, √m or 1 (times its density weight)."),
    ] = "sqrt"
    cap: Annotated[float, _help("Largest pair weight allowed; the mean over the training pairs is 1.")] = 10.0
    split: Annotated[
        Literal["group", "opening", "none"],
        _help("What stays on one side of the split: groups of near-duplicate openings, or single openings."),
    ] = "group"
    validation_share: Annotated[float, _help("Share of the pairs that validate.")] = 0.1
    group_cosine: Annotated[float, _help("Openings at this cosine or more are near-duplicates.")] = 0.95
    missing_weight: Annotated[
        Literal["error", "one", "drop"], _help("What a pair gets whose opening has no density weight.")
    ] = "error"
    duplicates: Annotated[Literal["keep", "drop"], _help("Whether exact copies of an earlier pair stay.")] = "keep"
    control: Annotated[
        Literal["uniform", "permuted", "multiplicity", "length"] | None,
        _help("Instead of density weights, what they are to be compared with; the split stays the same."),
    ] = None
    seed: Annotated[int, whole("Of the split and of --control permuted.")] = 0

    def __post_init__(self):
        one_of("multiplicity", self.multiplicity, ("pair", "sqrt", "opening"))
        one_of("split", self.split, ("group", "opening", "none"))
        one_of("missing_weight", self.missing_weight, ("error", "one", "drop"))
        one_of("duplicates", self.duplicates, ("keep", "drop"))
        one_of("control", self.control, (None, "uniform", "permuted", "multiplicity", "length"))
        whole_number("seed", self.seed, least=0)
        for name, low, high in (("validation_share", 0, 1), ("group_cosine", 0, 1), ("cap", 1, math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
                raise OptionError(f"{name} is {value!r}; expected a number from {low} to {high:g}.")
        if self.control == "multiplicity" and self.multiplicity == "pair":
            raise OptionError("control is multiplicity, and multiplicity pair does nothing; use sqrt or opening.")
