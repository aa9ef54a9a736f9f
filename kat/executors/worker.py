"""`python -m kat.executors.worker`: reads arrays from standard input, writes what is made of them to standard output.

Started by `kat.executors.processes`, one a core or GPU. The first message names a function of kat and its settings;
what that function returns answers all later messages. So this file needs to know nothing of what is computed. The
process ends when its input does, in the middle of a task too: a parent that is gone leaves none.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import IO

from kat.errors import OptionError
from kat.executors.base import Compute
from kat.executors.wire import receive, send

PARENTS_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""What ends a command is its parent's to handle, which ends the workers; a group of processes gets it all at once."""


def main() -> None:
    """Answer messages until the input ends, which ends the process at once."""
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # they were held back until here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the messages
    messages: queue.SimpleQueue = queue.SimpleQueue()
    # Tasks are taken in while another is computed, so that the parent never waits to hand one over.
    threading.Thread(target=_listen, args=(sys.stdin.buffer, messages), daemon=True).start()
    try:
        _answer(messages, answers)
    except BrokenPipeError:
        os._exit(1)  # nobody listens; there is nobody to tell


def resolve(function: str) -> Callable:
    """Return the function that a name like "kat.module:function" stands for.

    Raises OptionError for a name outside kat, ImportError or AttributeError for one that does not exist.
    """
    module, _, name = function.partition(":")
    # Messages come from the parent alone; a worker still never runs anything but kat.
    if not module.startswith("kat.") or not name:
        raise OptionError(f"function is {function!r}; expected kat.MODULE:FUNCTION.")
    return getattr(import_module(module), name)


def _listen(pipe: IO[bytes], messages: queue.SimpleQueue) -> None:
    while (message := receive(pipe)) is not None:
        messages.put(message)
    os._exit(0)  # the parent is gone, or has no use for what is being computed


def _answer(messages: queue.SimpleQueue, answers: IO[bytes]) -> None:
    compute: Compute | None = None
    while True:
        header, arrays = messages.get()
        try:
            if compute is None:
                compute, facts = resolve(header["function"])(header["settings"], arrays)
                send(answers, {"facts": facts})
                continue
            results = compute(arrays)
        except Exception as error:  # told to the parent, which raises it there
            send(answers, {"error": type(error).__name__, "message": str(error)})
            return
        send(answers, {"number": header["number"]}, results)


if __name__ == "__main__":
    main()
