"""What is said of words that a command cannot take, in the one form of all errors: what was got, what was expected."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from cyclopts import App, CycloptsError, Token
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from kat.parameters import near_name, options_of


def told(error: CycloptsError, name: str, app: App | None = None) -> str:
    """Return the message of an error of the command line `name`: kat, whose `app` knows the other commands, or one of
    the origin's five."""
    chain = list(error.command_chain or ())
    command, see = " ".join(chain) or name, f"See {' '.join([name, *chain])} --help"
    if isinstance(error, CoercionError) and error.token is not None:
        return _of_a_value(error, error.token)
    if isinstance(error, UnknownOptionError):
        return _of_an_option(error, command, see, app)
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        return _of_a_command(error, error.unused_tokens[0], name)
    if isinstance(error, UnusedCliTokensError):
        words = ", ".join(map(repr, error.unused_tokens or ()))
        return f"{command} has no place for {words}. {see}"
    if isinstance(error, RepeatArgumentError):
        return f"{error.token._option_name or error.token.keyword or error.token.value} is given twice. {see}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        if error.keyword is not None:
            return f"{error.keyword} needs a value. {see}"
        lacking = error.argument
        where = lacking.name if not lacking.field_info.is_positional else lacking.name.removeprefix("--").upper()
        return f"{command} needs {where}: {lacking.parameter.help} {see}"
    return str(error)


def _of_a_value(error: CoercionError, token: Token) -> str:
    """As `kat.parameters` says it of numbers out of range."""
    name = token._option_name or token.keyword or (error.argument.name if error.argument is not None else "value")
    name = _of_a_key(name).lstrip("-").replace("-", "_")
    kinds = [one for one in (get_args(error.target_type) or (error.target_type,)) if one is not type(None)]
    if get_origin(error.target_type) is Literal:
        expected = ", ".join(map(str, get_args(error.target_type)))
    elif error.msg is not None:
        expected = str(error.msg)
    else:
        expected = {float: "a number", bool: "true or false", int: "a whole number"}.get(kinds[0], "another value")
    where = f" (in {token.source})" if token.source not in ("", "cli") else ""
    return f"{name} is {token.value!r}{where}; expected {expected}."


def _of_a_key(name: str) -> str:
    """Return the name of an option, or of a key of a configuration file: there it is `[a][b]`."""
    return name[1:-1].replace("][", ".") if name.startswith("[") and name.endswith("]") else name


def _of_an_option(error: UnknownOptionError, command: str, see: str, app: App | None) -> str:
    word = _of_a_key((error.token._option_name or error.token.keyword or error.token.value).split("=")[0])
    where = f" (in {error.token.source})" if error.token.source not in ("", "cli") else ""
    names = [name.lstrip("-") for one in error.argument_collection if one.parse for name in one.names]
    key = word.lstrip("-").replace("_", "-")
    longer = (
        [] if app is None else [one for one in app if one.startswith(f"{command}-") and key in options_of(app[one])]
    )
    near = f" kat {longer[0]} has it." if longer else near_name(key, names, "--")
    return f"{command} has no option {word}{where}.{near or f' {see}'}"


def _of_a_command(error: UnknownCommandError, word: str, name: str) -> str:
    names = [one for one in (error.app or ()) if not one.startswith("-")]
    return f"there is no command {word!r}.{near_name(word, names) or f' See {name} --help'}"
