"""What can be set, one frozen dataclass a stage: it serves the command line, TOML files, Python and the manifests."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def _whole(_, tokens) -> int:
    """A whole number; the library would round 1.5."""
    word = tokens[0].value
    if not re.fullmatch(r"[-+]?\d+", word):
        raise ValueError(f"{word!r} is no whole number")
    return int(word)


def _whole_or_all(_, tokens) -> int | str:
    return "all" if tokens[0].value == "all" else _whole(_, tokens)


def whole(text: str, **more) -> Parameter:
    """A parameter for whole numbers, with its help."""
    return Parameter(help=text, converter=_whole, n_tokens=1, **more)


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


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """How a command runs, the same for every one; nothing here changes a good result."""

    max_bad_rows: Annotated[
        int | Literal["all"],
        _help(
            'Bad rows to tolerate, or "all"; those met go to OUT.rejected.jsonl.',
            metavar="N|all",
            show_choices=False,
            converter=_whole_or_all,
            n_tokens=1,
        ),
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
