"""Run a command as a process should: configuration files, messages on stderr, exit statuses, Ctrl-C, closed pipes."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError
from cyclopts.config import Dict

from kat.errors import KatError, OptionError


def run_app(app: App, tokens: list[str], *, tables: Collection[str], own_table: str | None = None) -> None:
    """Run a command: deliberate errors are one message on stderr and exit 2, Ctrl-C is 130, a closed pipe is quiet.

    `tables` are the tables that a configuration file may hold, one a command; `own_table` is the one of a command
    without subcommands.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show an arrow gets a question mark
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            tokens = _take_config(app, tokens, tables, own_table)
            app.suppress_keyboard_interrupt = False
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (KatError, CycloptsError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written is left under a final name, and the same command goes on", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}", 2)
    except MemoryError:
        _fail("out of memory; a smaller --batch_size or --max_tokens needs less", 2)
    finally:
        app.config = ()


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, spaces and all."""
    return shlex.quote(str(path))


def _fail(message: str, status: int) -> None:
    # What a file holds may stand in a message: no control character of it reaches the terminal.
    clean = "".join(c if c.isprintable() or c == "\n" else "�" for c in message)
    print(f"kat: {clean}", file=sys.stderr)
    raise SystemExit(status) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"kat: note: {message}", file=sys.stderr)


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
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path} cannot be read: {error}") from error
    config = {}
    for key, value in content.items():
        name = key if key in tables else key.replace("_", "-")
        if not isinstance(value, dict) or name not in tables:
            raise OptionError(f"{path}: [{key}] is no table of a command; expected {', '.join(sorted(tables))}.")
        config[name] = value
    return config
