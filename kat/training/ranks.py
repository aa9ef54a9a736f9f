"""The processes that train together, started by `torchrun` or `accelerate launch`: one a GPU, or several on processors.

Each computes its part of a step's rows; gradients are summed, so that a step is what one process would have done.
"""

from __future__ import annotations

import atexit
from datetime import timedelta
from typing import Any, Protocol

import torch

from kat.errors import MissingExtraError

BUCKET = 1 << 25
"""Numbers that are summed at a time: few enough to copy, enough to fill the line."""
PATIENCE = timedelta(days=7)
"""How long a process waits for the first one, which measures, and computes features, by itself: NCCL's 10 minutes are
over before a large file is. A process that ends badly is noticed by the launcher, not by waiting."""


class Ranks(Protocol):
    """The processes that train together: this one's number, how many there are, and what they agree on."""

    rank: int
    count: int

    def sum(self, tensors: list[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks."""

    def told(self, value: Any) -> Any:
        """Return the value of rank 0, a plain one, to every rank."""


class OneRank:
    """This process alone."""

    rank, count = 0, 1

    def sum(self, tensors: list[torch.Tensor]) -> None:
        """Leave them as they are."""

    def told(self, value: Any) -> Any:
        """Return the value."""
        return value


class SeveralRanks:
    """The processes of a launcher, by accelerate's word for where each one is."""

    def __init__(self, device: str) -> None:
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise MissingExtraError(
                "Several processes train by accelerate, which is not installed. Type: pip install 'accelerate>=1'"
            ) from error
        self.state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
        self.rank, self.count = self.state.process_index, self.state.num_processes
        # Gloo's threads that still live when the interpreter goes abort the process in one run of some forty, after all
        # is written: the launcher then calls the whole training failed.
        atexit.register(self.state.destroy_process_group)

    @property
    def device(self) -> str:
        """Return this process's own device."""
        return str(self.state.device)

    def sum(self, tensors: list[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, some together."""
        held: list[torch.Tensor] = []
        for i, tensor in enumerate(tensors):
            held.append(tensor)
            last = i + 1 == len(tensors) or tensors[i + 1].dtype != tensor.dtype
            if last or sum(t.numel() for t in held) >= BUCKET:
                # NCCL sums what is on the GPU alone, and numbers that are logged are not.
                flat = torch.cat([t.reshape(-1) for t in held]).to(self.state.device)
                torch.distributed.all_reduce(flat)
                parts = flat.split([t.numel() for t in held])
                torch._foreach_copy_(held, [p.view_as(t) for p, t in zip(parts, held, strict=True)])
                held = []

    def told(self, value: Any) -> Any:
        """Return the value of rank 0 to every rank."""
        told = [value]
        torch.distributed.broadcast_object_list(told)
        return told[0]
