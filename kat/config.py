"""What can be set, one frozen dataclass a stage: it serves the command line, TOML files, Python and the manifests.

A field marked NOT_RECORDED changes no result, or stands in another field already: no manifest holds it. Names of
plug-ins are not repeated here: a plug-in's name is its file's (`kat.plugins`), read from the folder without importing
anything, so that a new file is a new choice, and a type checker sees a plain string.
"""

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from cyclopts import Parameter

from kat.errors import InputError, KatError, OptionError, OutputError, translated
from kat.panels import MACHINE, OUTPUT, READING, TEXTS, WEIGHTS
from kat.parameters import check_weighting, flag, integer, integer_or_all, number, one_of, option, whole_number
from kat.plugins import ESTIMATORS, EXPORTS, POOLINGS, check_name, names

T = TypeVar("T")
if TYPE_CHECKING:
    EstimatorName: TypeAlias = str
    PoolingName: TypeAlias = str
    ExportName: TypeAlias = str
else:
    EstimatorName, PoolingName, ExportName = (Literal[names(folder)] for folder in (ESTIMATORS, POOLINGS, EXPORTS))

NOT_RECORDED = {"recorded": "never"}
WHEN_SET = {"recorded": "when set"}
"""Of an option that is younger than some manifests: one at its default is what those did."""
MAX_LINE_BYTES = 256_000_000
"""Of a line, unless told: 256 MB."""
_BASES = ("KAT_BASE_DIR", "NANOCHAT_BASE_DIR")
NO_PROMPT = "none"
"""As a prompt's name: no prompt."""
OF_FILES = ("boilerplate", "boilerplate_of", "inside_text")
"""Options of embedding that look at all texts of a file: what encodes texts as they are given has none of them."""


def recorded(*options: Any) -> dict[str, Any]:
    """Return what a manifest holds of some options (dataclasses of this module): their fields by name."""
    return {f.name: getattr(group, f.name) for group in options for f in fields(group) if _is_recorded(group, f)}


def recorded_as(kind: type[T], held: Mapping[str, Any], where: Path | str) -> T:
    """Return the options that `recorded` made a manifest's values of. Raises InputError for values that none takes.

    `where` is what to make again, for the message.
    """
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    with translated(InputError, f"The manifest of {where} is damaged", "Make it again with --overwrite."):
        try:
            return kind(**{name: value for name, value in held.items() if name in known})
        except KatError as error:
            raise ValueError(f"its options do not hold: {error}") from error


def _is_recorded(group: Any, option: Field[Any]) -> bool:
    rule = option.metadata.get("recorded", "always")
    return rule == "always" or (rule == "when set" and getattr(group, option.name) != option.default)


def base_directory() -> Path:
    """Return `$KAT_BASE_DIR`, else `$NANOCHAT_BASE_DIR`, else `~/.cache/nanochat`: where default paths start.

    Raises OutputError where there is no such home.
    """
    named = next((value for name in _BASES if (value := os.environ.get(name))), "~/.cache/nanochat")
    path = Path(os.path.expanduser(named))  # leaves ~ where it finds no home
    if path.parts and path.parts[0].startswith("~"):
        raise OutputError(f"{path} is in no home directory that is known. Set KAT_BASE_DIR to a folder for models.")
    return path


def data_path(name: str) -> Path:
    """Return a default file or folder in the base directory's `data/`."""
    return base_directory() / "data" / name


ModelName = Annotated[
    str,
    option(
        "minilm (bundled), a local model directory, a hub name, or a nanochat name (base, mid, sft, rl, …).",
        alias=["--ckpt-source", "--base-model-source"],
    ),
]
Precision = Literal["auto", "float32", "bfloat16"]
BatchSize = Annotated[int | None, integer("Texts in a batch at most; a token budget rules memory anyway.")]
Boilerplate = Annotated[
    Literal["drop", "keep"],
    option("Whether a system prompt or passage that most conversations of the file share is left out."),
]
InsideText = Annotated[
    Literal["read", "keep"],
    option("Whether a conversation that nearly all prompts hold inside their text (ChatML, JSON) becomes messages."),
]
Overwrite = Annotated[bool, flag("Replace an output made from other input or options.", group=OUTPUT)]


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True)
class RunOptions:
    """How a command runs, the same for every one; nothing here changes a good result."""

    max_bad_rows: Annotated[
        int | Literal["all"],
        integer_or_all('Bad rows to tolerate, or "all"; those met go to OUT.rejected.jsonl.', group=READING),
    ] = 0
    overwrite: Overwrite = field(default=False, metadata=NOT_RECORDED)
    device: Annotated[str, option("auto, cpu, cuda or mps.")] = field(default="auto", metadata=NOT_RECORDED)
    max_line_bytes: Annotated[
        int,
        integer(
            "Longest line that is read, in bytes; a longer one is a bad row, and never held in memory.", group=READING
        ),
    ] = field(default=MAX_LINE_BYTES, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        whole_number("max_line_bytes", self.max_line_bytes)
        if self.max_bad_rows != "all":
            whole_number("max_bad_rows", self.max_bad_rows, least=0)


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True)
class RowOptions(RunOptions):
    """How a command runs that computes little: on no particular device."""

    device: Annotated[str, Parameter(parse=False)] = field(default="auto", metadata=NOT_RECORDED)


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True)
class ComputeOptions(RunOptions):
    """How a command runs that reads no rows but those that another one has read."""

    max_bad_rows: Annotated[int | Literal["all"], Parameter(parse=False)] = 0
    max_line_bytes: Annotated[int, Parameter(parse=False)] = field(default=MAX_LINE_BYTES, metadata=WHEN_SET)


@Parameter(name="*", group=READING)
@dataclass(frozen=True)
class ReadOptions:
    """How rows of pairs are read; what is not set stands in no manifest (`recorded_reading`)."""

    columns: Annotated[
        str | None,
        option("Names of columns, theirs on the right: prompt=question,chosen=response_j,rejected=response_k."),
    ] = None
    drop_columns: Annotated[
        str | None, option("Columns to leave behind that cannot be carried, such as pictures: images,audio.")
    ] = None
    unit: Annotated[
        Literal["opening", "context"] | None,
        option(
            "What density is measured on: first user messages, or whole contexts up to the last one "
            "[default: opening; of weights that are there, their own]."
        ),
    ] = None
    score_conflict: Annotated[
        Literal["error", "keep", "swap", "drop"],
        option("A pair whose scores prefer the rejected one: a bad row, kept, turned round, or left out and counted."),
    ] = "error"

    max_line_bytes: Annotated[int, Parameter(parse=False)] = MAX_LINE_BYTES
    """On the command line an option of every command: see `RunOptions`."""

    def __post_init__(self) -> None:
        whole_number("max_line_bytes", self.max_line_bytes)
        one_of("score_conflict", self.score_conflict, ("error", "keep", "swap", "drop"))
        one_of("unit", self.unit, (None, "opening", "context"))
        for name in ("columns", "drop_columns"):
            if not isinstance(value := getattr(self, name), str | None):
                raise OptionError(f"{name} is {value!r}; expected text.")

    def within(self, run_options: RunOptions) -> "ReadOptions":
        """Return these options with the longest line that a command allows, unless that is the default."""
        if run_options.max_line_bytes == MAX_LINE_BYTES:
            return self
        return replace(self, max_line_bytes=run_options.max_line_bytes)

    @property
    def density_unit(self) -> Literal["opening", "context"]:
        """The unit that is named, or the opening."""
        return self.unit or "opening"


@Parameter(name="*", group=TEXTS)
@dataclass(frozen=True)
class EmbedOptions:
    """How texts become vectors."""

    model: ModelName = "minilm"
    batch_size: BatchSize = None
    max_tokens: Annotated[int | None, integer("Tokens of a text that are read [default: the model's limit].")] = None
    long_text: Annotated[
        Literal["tail", "head", "chunk"],
        option("What is read of a longer text: its end, its beginning, or all of it in pieces that are averaged."),
    ] = "tail"
    pooling: Annotated[
        PoolingName | None,
        option("How token vectors become one [default: the model's own, or mean]."),
    ] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], option("Of matrix products; auto takes bfloat16 where it is faster.")
    ] = "auto"
    render: Annotated[
        Literal["plain", "chat"], option("A conversation's text: contents joined by a newline, or the chat template.")
    ] = "plain"
    text: Annotated[
        Literal["conversation", "opening", "last"],
        option("What of a conversation is read: all of it, its first user message, or its last one."),
    ] = field(default="conversation", metadata=WHEN_SET)
    boilerplate: Boilerplate = field(default="drop", metadata=NOT_RECORDED)  # what is left out is recorded
    boilerplate_of: Annotated[
        Path | None, option("Leave out what was left out of these embeddings, instead of looking for it.")
    ] = field(default=None, metadata=NOT_RECORDED)
    inside_text: InsideText = field(default="read", metadata=NOT_RECORDED)  # what is read so is recorded
    prompt_name: Annotated[
        str | None,
        option("Which of the model's prompts goes before each text, or none [default: the model's own default]."),
    ] = field(default=None, metadata=WHEN_SET)
    max_unknown: Annotated[
        float | None,
        option(
            "Share of a text's tokens that the model may not know; more in over 1% of the texts is an error "
            "[default: 0.5, and a warning]."
        ),
    ] = field(default=None, metadata=WHEN_SET)
    processes: Annotated[
        int | None, integer("Processes that read texts [default: one a core or GPU; this one for little work].")
    ] = field(default=None, metadata=NOT_RECORDED)
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = field(default=False, metadata=NOT_RECORDED)
    model_tag: Annotated[str | None, option("Of a nanochat name: which d<depth> [default: the deepest].")] = field(
        default=None, metadata=NOT_RECORDED
    )
    step: Annotated[int | None, integer("Of a nanochat name: which checkpoint [default: the last].")] = field(
        default=None, metadata=NOT_RECORDED
    )

    def __post_init__(self) -> None:
        one_of("long_text", self.long_text, ("tail", "head", "chunk"))
        if self.pooling is not None:
            check_name("pooling", self.pooling, POOLINGS)
        one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("render", self.render, ("plain", "chat"))
        one_of("text", self.text, ("conversation", "opening", "last"))
        one_of("inside_text", self.inside_text, ("read", "keep"))
        one_of("boilerplate", self.boilerplate, ("drop", "keep"))
        if self.render == "chat" and self.prompt_name not in (None, NO_PROMPT):
            raise OptionError(f"prompt_name is {self.prompt_name!r} and render is chat; a prompt needs render plain.")
        if self.max_unknown is not None:
            number("max_unknown", self.max_unknown, high=1.0)
        for name, least in (("batch_size", 1), ("max_tokens", 1), ("processes", 1), ("step", 0)):
            if (value := getattr(self, name)) is not None:
                whole_number(name, value, least)

    @property
    def prompt(self) -> str | None:
        """The prompt's name: none goes before a chat template, which begins a conversation itself."""
        return NO_PROMPT if self.render == "chat" else self.prompt_name

    @property
    def source(self) -> str:
        """The model's one name, tag and step included: what manifests and workers know it by."""
        if self.model_tag is None and self.step is None:
            return self.model
        return "/".join([self.model, self.model_tag or "*", *([] if self.step is None else [str(self.step)])])


@Parameter(name="*", group=WEIGHTS)
@dataclass(frozen=True)
class DensityOptions:
    """How vectors become densities and weights."""

    k: Annotated[int, integer("Neighbours that a density is measured with.")] = 20
    metric: Annotated[
        Literal["cosine", "euclidean"], option("cosine normalises rows first; distances are Euclidean.")
    ] = "cosine"
    center: Annotated[bool, flag("Take the mean off the vectors before the cosine.")] = False
    search: Annotated[
        Literal["exact", "approximate"],
        option("approximate is for millions of rows; needs FAISS, tells its recall."),
    ] = "exact"
    least_recall: Annotated[float, option("Least recall of an approximate search.")] = 0.98
    estimator: Annotated[EstimatorName, option("How distances become a density.")] = "mean_distance"
    ess: Annotated[float, option("Floor of the effective sample size, as a share of N.")] = 0.5
    cap: Annotated[float, option("Largest weight allowed; the mean is 1.")] = 10.0
    temperature: Annotated[float | None, option("Exponent T in weight ∝ density^-T [default: solved from --ess].")] = (
        None
    )
    max_temperature: Annotated[float, option("Where solving for T stops.")] = 20.0

    def __post_init__(self) -> None:
        whole_number("k", self.k)
        one_of("metric", self.metric, ("cosine", "euclidean"))
        one_of("search", self.search, ("exact", "approximate"))
        check_name("estimator", self.estimator, ESTIMATORS)
        number("least_recall", self.least_recall, high=1.0)
        check_weighting(self.ess, self.cap, self.temperature, self.max_temperature)


@Parameter(name="*", group=WEIGHTS)
@dataclass(frozen=True)
class SampleOptions:
    """What is drawn of the openings."""

    budget: Annotated[int, integer("Openings to draw, N at most.")]
    seed: Annotated[int, integer("Of the draw; same seed, same draw.")] = 0

    def __post_init__(self) -> None:
        whole_number("budget", self.budget)
        whole_number("seed", self.seed, least=0)


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class ExportWeightsOptions:
    """For whom pairs and their weights are written."""

    to: Annotated[ExportName, option("Whose format.")]
    seed: Annotated[int, integer("Of weighted passes that are drawn beforehand.")] = 0

    def __post_init__(self) -> None:
        check_name("to", self.to, EXPORTS)
        whole_number("seed", self.seed, least=0)
