"""Run a command as a process should: configuration files, messages on stderr, exit statuses, Ctrl-C, closed pipes."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from kat import __version__
from kat.cli.everywhere import Tables, add_everywhere, asks_for_json, behind_everywhere
from kat.cli.mistakes import told
from kat.cli.signals import Stops, say_last, say_stopped
from kat.cli.streams import usable_streams
from kat.errors import KatError
from kat.panels import INPUT
from kat.terminal import Voice, command_line, escaped, note, print_object, shell_word

LISTS = Parameter(negative_iterable=())
"""Options that take several words have no --empty-… beside them."""


def command_app(name: str, text: str | None) -> App:
    """Return a command line of a name and a text for its help, as all of kat's are made."""
    return App(
        name=name,
        help=text,
        help_format="plaintext",  # Markdown takes as long to load as all else
        version=__version__,
        version_flags=["--version", "-V"],
        group_parameters=INPUT,
        group_arguments=INPUT,
        default_parameter=LISTS,
    )


def run_app(app: App, tokens: list[str], *, tables: Tables, own_table: str | None = None) -> None:
    """Run a command: deliberate errors are one message on stderr and exit 2, Ctrl-C is 130, SIGTERM 143, SIGHUP 129,
    a closed pipe is quiet.

    `tables` are the tables that a configuration file may hold, one a command; `own_table` is the one of a command
    without subcommands. With `--json` one object stands on stdout at the end, whatever the end is.
    """
    voice = Voice()
    add_everywhere(app, voice, tables, own_table)
    with usable_streams():
        _run(app, tokens, voice, own_table)


def _run(app: App, tokens: list[str], voice: Voice, own_table: str | None) -> None:
    try:
        with Stops(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False
            app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        _tell(voice, 0)
        sys.stdout.flush()
    except (KatError, CycloptsError) as error:
        voice.told |= asks_for_json(tokens)  # the mistake may be in the options of every command
        program = app.name[0] if own_table is None else typed(own_table)
        _fail(
            error.lines if isinstance(error, KatError) else [told(error, program, app if own_table is None else None)],
            2,
            voice,
        )
    except KeyboardInterrupt as stop:
        status = say_stopped(stop)
        with contextlib.suppress(OSError):  # the terminal may be gone
            _tell(voice, status)
        raise SystemExit(status) from None
    except BrokenPipeError:
        raise
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # what draws the help exits by itself, with 1
            raise end.__context__ from None
        _tell(voice, end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except OSError as error:
        _fail([f"{error.filename or 'A file'}: {error.strerror or error}"], 2, voice)
    except MemoryError:
        _fail(["out of memory; a smaller --batch_size or --max_tokens needs less"], 2, voice)
    finally:
        app.config = ()


def _tell(voice: Voice, status: int, errors: Sequence[str] = ()) -> None:
    """Print what a command did as one object, if that was asked for."""
    if voice.told and os.environ.get("RANK", "0") == "0":
        print_object(
            {"kat": __version__, "command": command_line(), "status": status, **voice.content(), "errors": list(errors)}
        )


def with_dashes(app: App, tokens: list[str]) -> list[str]:
    """Return the tokens with a command's name as `app` has it: underscores and dashes are alike in it too."""
    at = behind_everywhere(tokens)
    dashed = tokens[at].replace("_", "-") if at < len(tokens) else "-"
    return tokens if dashed.startswith("-") or dashed not in app else [*tokens[:at], dashed, *tokens[at + 1 :]]


def typed(name: str) -> str:
    """Return how to type one of the origin's five: through `kat` where this process is `kat`, for another package may
    be called scripts."""
    return f"kat origin {name}" if command_line().startswith("kat ") else f"python -m scripts.{name}"


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, spaces and all."""
    return shell_word(str(path))


def _fail(lines: Sequence[str], status: int, voice: Voice) -> None:
    """Print a message of some lines, and exit. Who wants more is shown where it arose."""
    if voice.verbose:
        note(*traceback.format_exc().splitlines())
    first, *others = lines
    say_last("".join(f"{escaped(line)}\n" for line in (f"kat: {first}", *others)))
    _tell(voice, status, lines)
    raise SystemExit(status) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"kat: note: {message}")
