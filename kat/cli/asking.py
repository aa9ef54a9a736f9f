"""Help as a command, and completion: what `kat` understands beside its stages."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from kat.cli.everywhere import behind_everywhere
from kat.cli.runner import command_app
from kat.cli.scripts import SCRIPTS
from kat.terminal import show


def asked_for_help(tokens: list[str]) -> list[str]:
    """Return the tokens with `help` as a flag: `kat help` is `kat --help`, `kat help COMMAND` is `kat COMMAND
    --help`."""
    at = behind_everywhere(tokens)
    if tokens[at : at + 1] != ["help"]:
        return tokens
    asked = tokens[at + 1 :]
    if asked and asked[0].replace("-", "_") in SCRIPTS:
        asked = ["origin", *asked]  # one of the origin's five by its own name
    return [*tokens[:at], *asked, "--help"]


def without_help_of_nothing(app: App, tokens: list[str]) -> list[str]:
    """Return the tokens without the flag where they name no command: its help would be that of `kat`, and the mistake
    would not be said."""
    name = next(iter(tokens[behind_everywhere(tokens) :]), "-")
    return tokens if name.startswith("-") or name in app else [word for word in tokens if word not in app.help_flags]


def completion_app(app: App) -> App:
    """Return `kat completion`, which prints what a shell reads to complete the words of `app`."""
    completion = command_app("kat completion", "What a shell reads to complete the words of kat.")

    @completion.default
    def print_completion(
        shell: Annotated[
            Literal["bash", "zsh", "fish"], Parameter(help='As: eval "$(kat completion bash)", or in fish: … | source.')
        ],
    ) -> None:
        show(*app.generate_completion(shell=shell).split("\n"))

    return completion
