"""Run a command as a process should: configuration files, messages on stderr, exit statuses, Ctrl-C, closed pipes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError
from cyclopts.config import Dict

from kat.cli.signals import Stops, say_last, say_stopped
from kat.errors import KatError, OptionError
from kat.terminal import escaped, note, shell_word

VERSION_FLAGS = ("--version", "-V")


def run_app(app: App, tokens: list[str], *, tables: Collection[str], own_table: str | None = None) -> None:
    """Run a command: deliberate errors are one message on stderr and exit 2, Ctrl-C is 130, SIGTERM 143, SIGHUP 129,
    a closed pipe is quiet.

    `tables` are the tables that a configuration file may hold, one a command; `own_table` is the one of a command
    without subcommands.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show an arrow gets a question mark
    try:
        with Stops(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            tokens = _take_config(app, tokens, tables, own_table)
            app.suppress_keyboard_interrupt = False
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (KatError, CycloptsError) as error:
        _fail(error.lines if isinstance(error, KatError) else str(error).split("\n"), 2)
    except KeyboardInterrupt as stop:
        raise SystemExit(say_stopped(stop)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}", 2)
    except MemoryError:
        _fail("out of memory; a smaller --batch_size or --max_tokens needs less", 2)
    finally:
        app.config = ()


def _open_closed_streams() -> None:
    """Give what was started with a closed stdin, stdout or stderr the null device there: a file that a command opens
    would get the number, and whatever is printed would end in it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as the process


def command_at(tokens: Sequence[str]) -> int:
    """Return where the command's name stands: first, or behind `--config FILE`."""
    if not tokens or not tokens[0].startswith("--config"):
        return 0
    return 2 if tokens[0] == "--config" else int(tokens[0].startswith("--config="))


def with_dashes(app: App, tokens: list[str]) -> list[str]:
    """Return the tokens with a command's name as `app` has it: underscores and dashes are alike in it too."""
    at = command_at(tokens)
    dashed = tokens[at].replace("_", "-") if at < len(tokens) else "-"
    return tokens if dashed.startswith("-") or dashed not in app else [*tokens[:at], dashed, *tokens[at + 1 :]]


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, spaces and all."""
    return shell_word(str(path))


def _fail(message: str | Sequence[str], status: int) -> None:
    """Print a message, a line or several, and exit."""
    first, *others = [message] if isinstance(message, str) else message
    say_last("".join(f"{escaped(line)}\n" for line in (f"kat: {first}", *others)))
    raise SystemExit(status) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"kat: note: {message}")


def _take_config(app: App, tokens: list[str], tables: Collection[str], own_table: str | None) -> list[str]:
    """Take `--config FILE` (or --config=FILE) out of the tokens and attach it; flags win over the file."""
    for i, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            used = 1 if "=" in token else 2
            if i + used > len(tokens):
                raise OptionError("--config needs the path of a TOML file.")
            path = Path(token.partition("=")[2] or tokens[i + 1])
            root = () if own_table is None else (own_table,)
            config = read_config(path, tables)
            app.config = Dict(config, root_keys=root, use_commands_as_keys=own_table is None, source=str(path))
            return tokens[:i] + tokens[i + used :]
    return tokens


def read_config(path: Path, tables: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read a TOML file's tables by command. Every top-level key must be one: what nothing reads is a mistake."""
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
            raise OptionError(f"{path}: [{key}] is no table of a command; expected {', '.join(sorted(tables))}.")
        config[name] = value
    return config
