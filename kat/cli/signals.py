"""How signals end a process of kat's, from its first line on: Ctrl-C, SIGTERM and SIGHUP, each with its exit status.

Nothing that takes time to load is imported at the top: a signal during the other imports is met by what stands here.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_said = False


class Stopped(KeyboardInterrupt):
    """A signal that ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end_on_signals() -> None:
    """Let a signal end this process at once, with a line and its status: nothing is begun yet, or all is done.

    A signal that is ignored stays so, as `nohup` has it.
    """
    for number in _free():
        signal.signal(number, _end)


class Stops:
    """While a command runs: the first signal raises Stopped in it, and it cleans up; a second ends the process at once.

    A context manager, which leaves every signal as it was. It does nothing outside of the main thread, nor to a signal
    that is ignored or that has a handler of somebody else's.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._stopped: Stopped | None = None

    def __enter__(self) -> Stops:
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._again
        for number in _free():
            try:
                self._before[number] = signal.signal(number, self._stop)
            except ValueError:  # another thread than the main one, which alone gets signals
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook
        if self._stopped is not None and not isinstance(error, KeyboardInterrupt):
            raise self._stopped from None  # a library took it for another error, or went on

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, _end)
        self._stopped = Stopped(number)
        raise self._stopped

    def _again(self, ignored: Any) -> None:
        """Python prints and forgets what is raised in a callback: what stops the command is raised once more."""
        if self._stopped is None or ignored.exc_value is not self._stopped:
            self._hook(ignored)
            return
        import _thread
        import threading

        for each in self._before:
            signal.signal(each, self._stop)
        threading.Timer(0.01, _thread.interrupt_main, [self._stopped.number]).start()


def stop_message(number: int) -> str:
    """Return what is said of a command that a signal ended."""
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    return f"interrupted{name}; nothing half-written is left under a final name, and the same command goes on"


def say_stopped(stop: KeyboardInterrupt) -> int:
    """Print what ended the command, once, and return the exit status. The terminal may be gone."""
    global _said
    _said = True
    number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
    say_last(f"kat: {stop_message(number)}\n")
    return 128 + number


def say_last(text: str) -> None:
    """Write to stderr, and what stdout still holds, as the last thing of a process. The terminal may be gone."""
    for stream, last in ((sys.stderr, text), (sys.stdout, "")):
        if stream is None:  # closed before Python began
            continue
        try:
            stream.write(last)
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes once more as it ends


def _end(number: int, frame: FrameType | None) -> None:
    try:
        if not _said:
            os.write(2, f"kat: {stop_message(number)}\n".encode())
    finally:  # also if the terminal is gone
        os._exit(128 + number)


def _free() -> list[int]:
    """Return the signals whose handling is Python's own, or `end_on_signals`'s."""
    own = (signal.SIG_DFL, signal.default_int_handler, _end)
    return [number for number in _SIGNALS if signal.getsignal(number) in own]
