"""`python -m kat.executors.worker`: reads packs from standard input, writes their vectors to standard output.

Started by `kat.executors.processes`, one a core or GPU. It ends when its input does: a parent that is gone leaves none.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import IO, Any

import numpy as np

from kat.executors.wire import receive, send


def main() -> None:
    """Answer messages until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the pipe
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the messages
    asked: queue.SimpleQueue = queue.SimpleQueue()
    # Packs are taken in while another is computed, so that the parent never waits to hand one over.
    threading.Thread(target=_listen, args=(sys.stdin.buffer, asked), daemon=True).start()
    try:
        _answer(asked, answers)
    except BrokenPipeError:
        os._exit(1)  # nobody listens; there is nobody to tell


def _listen(pipe: IO[bytes], asked: queue.SimpleQueue) -> None:
    while (message := receive(pipe)) is not None:
        asked.put(message)
    asked.put(None)


def _answer(asked: queue.SimpleQueue, answers: IO[bytes]) -> None:
    engine = None
    while (message := asked.get()) is not None:
        header, arrays = message
        try:
            if engine is None:
                engine = _start(header)
                send(answers, {"ready": True})
                continue
            flat, lengths = arrays
            vectors = engine.vectors(np.split(flat, np.cumsum(lengths)[:-1]))
        except Exception as error:  # told to the parent, which raises it there
            send(answers, {"error": type(error).__name__, "message": str(error)})
            return
        send(answers, {"number": header["number"]}, [vectors])


def _start(header: dict[str, Any]):
    import torch

    torch.set_num_threads(header["threads"])
    from kat.embedding.engine import Engine, Settings

    return Engine(Settings(**header["settings"]))


if __name__ == "__main__":
    main()
