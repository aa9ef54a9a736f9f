"""Token vectors to one vector a text, in float32. Padding never enters: every pooling reads through mask or layout.

One file a pooling; its name is what `--pooling` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kat import plugins

if TYPE_CHECKING:
    import torch

    from kat.packing.layout import Layout

_ROWS = 8192
"""Vectors normalised at once: a bounded copy, however many there are."""


@dataclass(frozen=True)
class Pooling:
    """A way to pool. Every function gives [B, D] float32, not yet of unit length.

    `padded` takes hidden states [B, T, D] float32 and a mask [B, T] of real tokens, right padding assumed.
    `packed` takes a packed row of hidden states [T, D], of any floating type, and its layout.
    """

    name: str
    help: str
    padded: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    packed: Callable[[torch.Tensor, Layout], torch.Tensor]


def pool(hidden_btd: torch.Tensor, mask_bt: torch.Tensor, name: str) -> torch.Tensor:
    """Pool hidden states [B, T, D] under a mask [B, T] of real tokens to [B, D] float32.

    Raises OptionError for an unknown pooling.
    """
    row: Pooling = plugins.load(plugins.POOLINGS, name)
    return row.padded(hidden_btd.float(), mask_bt)


def pool_packed(hidden_td: torch.Tensor, layout: Layout, name: str) -> torch.Tensor:
    """Pool a packed row of hidden states [T, D] to [B, D] float32, texts in the row's order.

    Raises OptionError for an unknown pooling.
    """
    row: Pooling = plugins.load(plugins.POOLINGS, name)
    return row.packed(hidden_td, layout)


def normalise(vectors: np.ndarray) -> None:
    """Give vectors [N, D] float32 unit length, in place; one of zeros stays."""
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
