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


class KatError(Exception):
    """Base of all deliberate errors; catch this to catch them all."""


class InputError(KatError, ValueError):
    """A file or array that kat cannot use."""


class FormatError(InputError):
    """Rows of no known format, or of two formats in one file."""


class BadRowsError(InputError):
    """More bad rows than allowed. `counts` maps each reason to (rows, first "file:line")."""

    def __init__(self, message: str, counts: dict[str, tuple[int, str]]) -> None:
        super().__init__(message)
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
    """A process that worked for this one and ended before its work was done."""
