"""The commands that read what is there, and write nothing. Functions here only name options and call a stage."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kat.errors import MismatchError
from kat.terminal import note, show

PromptsPath = Annotated[
    list[Path] | None,
    Parameter(help="What was embedded, once for each path [default: what the folder names]."),
]


def show_run(
    run: Annotated[Path, Parameter(help="A folder of `kat run`, of weights, or whatever one command wrote.")],
) -> None:
    """Print again what was reported as things were made; then the heaviest and lightest openings, and who pays."""
    from kat.stages.show import show_again

    show(*show_again(run))


def compare_weights(
    run: Annotated[Path, Parameter(help="A folder of `kat run`, or of weights.")],
    other: Annotated[Path, Parameter(help="Another one of the same pairs: of another encoder, k or form of the text.")],
) -> None:
    """How far the weights of two runs agree: in rank, in the heaviest tenth, in weight that moves; what moved most."""
    from kat.stages.compare_weights import compare_weights as compare

    show(*compare(run, other))


def models() -> None:
    """What models are here: bundled ones, and nanochat's checkpoints with format version, dimension and step."""
    from kat.stages.models import list_models

    list_models()


def verify(
    folder: Annotated[Path, Parameter(help="A folder of `kat run`, or whatever one command wrote.")],
    *,
    prompts_path: PromptsPath = None,
) -> None:
    """Prove that a folder is whole. Exit 1 names the first wrong row; exit 2 if it is no such folder."""
    from kat.stages.verify import verify as check

    try:
        show(*check(folder, prompts_path))
    except MismatchError as error:
        note(f"kat: {error.lines[0]}", *error.lines[1:])
        raise SystemExit(1) from None
    show("whole")
