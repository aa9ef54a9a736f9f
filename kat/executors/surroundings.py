"""What a library that starts processes finds around it: variables and signals, put back as they were."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence


@contextlib.contextmanager
def environment(variables: Mapping[str, str], restored: Sequence[str] = ()) -> Iterator[None]:
    """Set variables for processes that inherit them, unless the user set them; PYTHONPATH is set in any case.

    `restored` names others that are put back as they were.
    """
    before = {name: os.environ.get(name) for name in (*variables, *restored)}
    for name, value in variables.items():
        if before[name] is None or name == "PYTHONPATH":
            os.environ[name] = value
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name, None)
            if old is not None:
                os.environ[name] = old


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Put signals back as they were, whatever is set meanwhile."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError):  # another thread than the main one
                signal.signal(number, handler)
