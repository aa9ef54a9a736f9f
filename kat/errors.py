"""Every error that kat raises on purpose. The command line prints one as a line on stderr and exits 2.

    KatError
    ├── InputError        a file or array that kat cannot use
    │   ├── FormatError       rows of no known format, or of two formats in one file
    │   ├── BadRowsError      more bad rows than allowed
    │   └── DuplicateIdError  one id for two openings
    ├── MismatchError     ids, rows or hashes that should agree and do not
    ├── OutputError       a place that cannot be written, or that holds something else
    ├── OptionError       an option out of its range, or two that contradict each other
    ├── ModelError        a model that cannot be found or loaded
    │   └── MissingExtraError  an optional package that is not installed
    └── WorkerError       a process that worked for this one and ended before its work was done

A message says what was got, what was expected, and what to type next.
"""

import contextlib
from collections.abc import Iterator


class KatError(Exception):
    """Base of all deliberate errors; catch this to catch them all.

    Each argument is a line. What stands between them is kat's own; a line break inside of one is what a file or a name
    holds, and is shown escaped.

    >>> try:
    ...     kat.find_neighbors(np.eye(3), k=0)
    ... except kat.KatError as error:
    ...     print(error)
    k is 0; expected a whole number of 1 or more.
    """

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the lines of the message."""
        return tuple(map(str, self.args))

    def __str__(self) -> str:
        return "\n".join(self.lines)


class InputError(KatError, ValueError):
    """A file or array that kat cannot use."""


class FormatError(InputError):
    """Rows of no known format, or of two formats in one file."""


class BadRowsError(InputError):
    """More bad rows than allowed. `counts` maps each reason to (rows, first "file:line")."""

    def __init__(self, *lines: str, counts: dict[str, tuple[int, str]]) -> None:
        super().__init__(*lines)
        self.counts = counts


class DuplicateIdError(InputError):
    """One id that stands for two openings."""


class MismatchError(KatError, ValueError):
    """Ids, rows or hashes that should agree and do not. Also what a failed verification raises."""


class OutputError(KatError, OSError):
    """A place that cannot be written, or that holds something else."""


class OptionError(KatError, ValueError):
    """An option out of its range, or two that contradict each other."""


class ModelError(KatError, LookupError):
    """A model that cannot be found or loaded."""


class MissingExtraError(ModelError):
    """An optional package that is not installed; the message holds the command that installs it."""


class WorkerError(KatError, RuntimeError):
    """A process that worked for this one and ended before its work was done; `task` is the number of its task."""

    task: int | None = None


@contextlib.contextmanager
def translated(kind: type[KatError], message: str, remedy: str = "") -> Iterator[None]:
    """Raise as an error of kat's what a library raises at a damaged file: `message`, its first words, the `remedy`.

    A damaged file makes libraries raise whatever they meet. Memory that runs out says nothing of a file, and passes.
    """
    try:
        yield
    except (KatError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, without loading torch
            raise
        raise kind(f"{message}: {first_words(error)}{'' if not remedy else f' {remedy}'}") from error


def first_words(error: BaseException) -> str:
    """Return the first line of an error, with its name where that alone says nothing."""
    line = next((one.strip() for one in str(error).splitlines() if one.strip()), "")
    plain = isinstance(error, OSError | ValueError | RuntimeError) and line and not isinstance(error, RecursionError)
    return (line if plain else f"{type(error).__name__} {line}".strip()).rstrip(".") + "."
