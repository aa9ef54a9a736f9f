"""What a library that starts processes finds around it: variables and signals, put back as they were."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType


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


_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def late_signals() -> Iterator[None]:
    """Let the first signal come when the block has ended, for a library that crashes if it is stopped half-way.

    A second one comes at once. What is ignored stays so, and signals are put back as they were, whatever is set
    meanwhile.
    """
    before = {number: handler for number in _NUMBERS if callable(handler := signal.getsignal(number))}
    late: list[int] = []

    def note_down(number: int, frame: FrameType | None) -> None:
        late.append(number)
        if len(late) > 1:
            before[number](number, frame)

    try:
        with own_signals():
            for number in before:
                with contextlib.suppress(ValueError):  # another thread than the main one, which alone gets signals
                    signal.signal(number, note_down)
            yield
    finally:
        if len(late) == 1:
            signal.raise_signal(late[0])


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Put signals back as they were, whatever is set meanwhile."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError):  # another thread than the main one
                signal.signal(number, handler)
