"""The options of every command: `--config`, `--json`, `--quiet` and `--verbose`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.config import Dict

from kat.errors import OptionError
from kat.panels import EVERYWHERE
from kat.parameters import flag, near_name, options_of
from kat.terminal import Voice, speaking

FLAGS = ("--json", "--quiet", "-q", "--verbose", "-v")
CONFIG = "--config"

Tables = dict[str, Callable[[], App]]
"""What a configuration file may hold: a table for each command, with what gives the command."""


def add_everywhere(app: App, voice: Voice, tables: Tables, own_table: str | None = None) -> None:
    """Give a command line the options of every command, and let its help list them.

    `voice` becomes what they say; a configuration file fills in what is not typed. `own_table` is the table of a
    command without subcommands.
    """

    def begin(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[
            Path | None, Parameter(help="TOML file with options in the table of their command; what is typed wins.")
        ] = None,
        json: Annotated[bool, flag("Print one JSON object at the end.")] = False,
        quiet: Annotated[bool, flag("Print notes and errors alone.", alias="-q")] = False,
        verbose: Annotated[bool, flag("Print memory too, and where an error arose.", alias="-v")] = False,
    ) -> Any:
        voice.told, voice.quiet, voice.verbose = json, quiet, verbose
        if config is not None:
            app.config = _configuration(config, tables, own_table)
        with speaking(voice):
            return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")

    for name in (*app.help_flags, *app.version_flags):
        app[name].group = EVERYWHERE
    app.meta.group_parameters = EVERYWHERE
    app.meta.default_command = None  # of an earlier command of this process
    app.meta.default(begin)


def behind_everywhere(tokens: list[str]) -> int:
    """Return where the command's name stands: first, or behind options of every command."""
    at = 0
    while at < len(tokens) and (tokens[at] in (*FLAGS, CONFIG) or tokens[at].startswith(f"{CONFIG}=")):
        at += 2 if tokens[at] == CONFIG else 1
    return min(at, len(tokens))


def asks_for_json(tokens: list[str]) -> bool:
    """Return whether `--json` is among the options, as far as that can be said of words that cannot be taken."""
    return "--json" in tokens[: tokens.index("--") if "--" in tokens else None]


def _configuration(path: Path, tables: Tables, own_table: str | None) -> Dict:
    root = () if own_table is None else (own_table,)
    content = read_config(path, tables)
    return Dict(content, root_keys=root, use_commands_as_keys=own_table is None, source=str(path))


def read_config(path: Path, tables: Tables) -> dict[str, dict[str, Any]]:
    """Read a TOML file's tables by command. What no command reads is a mistake, in whatever table it stands.

    Raises OptionError for a file that cannot be read, a table of no command, and a key that its command does not have.
    """
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise OptionError(f"--config {path} cannot be read: it is nested too deep.") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path} cannot be read: {error}") from error
    config = {}
    for key, value in content.items():
        name = key if key in tables else key.replace("_", "-")
        if not isinstance(value, dict) or name not in tables:
            near = near_name(name, tables) or f" Expected {', '.join(sorted(tables))}."
            raise OptionError(f"{path}: [{key}] is no table of a command.{near}")
        _check_keys(path, key, value, options_of(tables[name]()))
        config[name] = value
    return config


def _check_keys(path: Path, table: str, keys: Iterable[str], known: Collection[str]) -> None:
    for key in keys:
        if key.replace("_", "-") not in known:
            near = near_name(key.replace("_", "-"), known)
            typed = f" It is typed: --{key}" if f"--{key}" in (*FLAGS, CONFIG) else near
            raise OptionError(f"{path}: [{table}] has no option {key!r}.{typed}")
