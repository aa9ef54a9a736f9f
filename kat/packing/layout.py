"""Where each text of a packed row begins and ends: what attention, positions and pooling read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Run:
    """`count` consecutive texts of `length` tokens each, the first at token `start` of the row."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Layout:
    """The texts of one packed row: `lengths` [B] int64, all above 0, in the order of the row.

    Goes to the model as the keyword argument `layout`, which transformers hands on to the attention function.
    """

    lengths: np.ndarray

    @cached_property
    def bounds(self) -> np.ndarray:
        """[B + 1] int64: text b is tokens bounds[b] … bounds[b + 1] − 1."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def total(self) -> int:
        return int(self.bounds[-1])

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Texts of equal length side by side, which one batched product can serve."""
        cuts = np.flatnonzero(np.diff(self.lengths)) + 1
        firsts, lasts = [0, *cuts.tolist()], [*cuts.tolist(), len(self.lengths)]
        return tuple(Run(int(self.bounds[a]), z - a, int(self.lengths[a])) for a, z in zip(firsts, lasts, strict=True))

    @cached_property
    def positions(self) -> np.ndarray:
        """[T] int64: each token's place in its own text, from 0."""
        return np.arange(self.total) - np.repeat(self.bounds[:-1], self.lengths)

    @cached_property
    def _on_devices(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """For a device's kernels: bounds [B + 1] int32, and each token's text number [T] int64."""
        import torch

        if str(device) not in self._on_devices:
            bounds = torch.from_numpy(self.bounds).to(device, torch.int32)
            texts = torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths)).to(device)
            self._on_devices[str(device)] = (bounds, texts)
        return self._on_devices[str(device)]


def pack(tokens: Sequence[np.ndarray]) -> tuple[np.ndarray, Layout]:
    """Token ids of texts end to end, [T] int64, and their layout. None may be empty."""
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    if not len(tokens) or not lengths.all():
        raise ValueError("A pack needs at least one text, and every text at least one token.")
    return np.concatenate(tokens).astype(np.int64, copy=False), Layout(lengths)
