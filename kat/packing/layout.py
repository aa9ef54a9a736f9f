"""Where each text of a packed row begins and ends, and what a token of it sees: what attention and pooling read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class AttentionRule(NamedTuple):
    """How a layer attends: softmax(`scale` · q kᵀ) over the keys that a query sees.

    These are the keys of its own text; if `causal`, none after the query; and with a `window`, those less than
    `window` tokens away (the token itself included, as FlashAttention counts).
    """

    scale: float
    causal: bool
    window: int | None


@dataclass(frozen=True)
class Run:
    """`count` consecutive texts of `length` tokens each, the first at token `start` of the row."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        """Return the token of the row after the last one of these texts."""
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Layout:
    """The texts of one packed row: `lengths` [B] int64, all above 0, in the order of the row.

    Every property is computed once and kept, for each layer of a model asks again. The layout goes to the model as the
    keyword argument `layout`, which transformers hands on to the attention function.
    """

    lengths: np.ndarray

    @cached_property
    def bounds(self) -> np.ndarray:
        """Return [B + 1] int64: text b is tokens bounds[b] … bounds[b + 1] − 1."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def total(self) -> int:
        """Return the tokens of the row, T."""
        return int(self.bounds[-1])

    @cached_property
    def longest(self) -> int:
        """Return the tokens of the longest text."""
        return int(self.lengths.max())

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Return the runs of texts of equal length side by side, each of which one batched product can serve."""
        cuts = np.flatnonzero(np.diff(self.lengths)) + 1
        firsts, lasts = [0, *cuts.tolist()], [*cuts.tolist(), len(self.lengths)]
        return tuple(Run(int(self.bounds[a]), z - a, int(self.lengths[a])) for a, z in zip(firsts, lasts, strict=True))

    @cached_property
    def positions(self) -> np.ndarray:
        """Return [T] int64: each token's place in its own text, from 0."""
        return np.arange(self.total) - np.repeat(self.bounds[:-1], self.lengths)

    @cached_property
    def _on_devices(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a device's kernels read: bounds [B + 1] int32, and each token's text number [T] int64."""
        import torch

        if str(device) not in self._on_devices:
            bounds = torch.from_numpy(self.bounds).to(device, torch.int32)
            texts = torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths)).to(device)
            self._on_devices[str(device)] = (bounds, texts)
        return self._on_devices[str(device)]


def pack(tokens: Sequence[np.ndarray]) -> tuple[np.ndarray, Layout]:
    """Return the token ids of texts end to end, [T] int64, and their layout.

    Raises ValueError for no text, or an empty one.
    """
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    if not len(tokens) or not lengths.all():
        raise ValueError("A pack needs at least one text, and every text at least one token.")
    return np.concatenate(tokens).astype(np.int64, copy=False), Layout(lengths)
